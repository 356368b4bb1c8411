package control

import (
	"net/netip"
	"testing"
)

// TestPools: a mesh keeps its addresses, and two never have the same.
func TestPools(t *testing.T) {
	dir := t.TempDir()
	one, release := claimPool(dir, netip.Addr{})
	two, releaseTwo := claimPool(dir, netip.Addr{})
	defer releaseTwo()
	if one == two || one.Overlaps(two) {
		t.Errorf("two meshes have %s and %s", one, two)
	}
	for _, p := range []netip.Prefix{one, two} {
		if p.Masked() != p || !netip.MustParsePrefix("127.64.0.0/10").Contains(p.Addr()) || poolAt(poolIndex(p)) != p {
			t.Errorf("%s is no pool", p)
		}
	}
	release()
	if again, release := claimPool(dir, netip.Addr{}); again != one {
		t.Errorf("%s, then %s", one, again)
	} else {
		release()
	}
	releaseTwo()
	// What it was given last stays its own, though that was not the first choice.
	if again, release := claimPool(dir, two.Addr().Next()); again != two {
		t.Errorf("%s, then %s", two, again)
	} else {
		release()
	}
	if p, release := claimPool(dir, netip.MustParseAddr("10.0.0.1")); p != one {
		t.Errorf("with an address of elsewhere: %s, want %s", p, one)
	} else {
		release()
	}
}
