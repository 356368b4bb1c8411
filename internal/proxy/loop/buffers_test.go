package loop

import "testing"

// What was given back is lent again; what lay about for a whole interval goes.
func TestBuffersKeepWhatIsUsed(t *testing.T) {
	var b buffers
	var all [][]byte
	for range 300 {
		all = append(all, b.get(bufMid))
	}
	for _, p := range all {
		b.put(p)
	}
	if n := len(b.free[1]); n != bufKeep/bufMid {
		t.Fatalf("%d buffers kept, want %d", n, bufKeep/bufMid)
	}
	if n := testing.AllocsPerRun(100, func() {
		for i := range 200 {
			all[i] = b.get(bufMid)
		}
		for i := range 200 {
			b.put(all[i])
		}
	}); n != 0 {
		t.Errorf("%v allocations for buffers that were there", n)
	}
	b.trim() // opens an interval
	for i := range 100 {
		all[i] = b.get(bufMid)
	}
	for i := range 100 {
		b.put(all[i])
	}
	if b.trim(); len(b.free[1]) != 100 {
		t.Errorf("%d buffers kept of which 100 were needed", len(b.free[1]))
	}
	if b.trim() || len(b.free[1]) != 0 {
		t.Errorf("%d buffers kept of which none was needed", len(b.free[1]))
	}
}
