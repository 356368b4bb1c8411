package ext

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Index is the little that a sidecar on demand knows of a mesh before it asks.
// What it excludes need not be asked for. Immutable.
type Index struct {
	// Prefixes hold every address of a service, of its endpoints and of a
	// workload; sorted, none within another. They may hold strangers too.
	Prefixes []netip.Prefix
	// Ports that have a listener for every address; sorted.
	Ports []Port
	// Names are Fingerprints of the hosts, wildcard ones as they are written, by
	// which requests, TLS connections and questions may be told to be for the mesh;
	// sorted. See MayName.
	Names []uint32
	// EveryName: there are too many Names, and MayName says yes to all.
	EveryName bool
	// AllowAny: what the mesh does not know passes (outboundTrafficPolicy).
	AllowAny bool
}

// Port of an Index.
type Port struct {
	Number uint16
	ByHost bool // requests are told apart by their host
	BySNI  bool // TLS connections are told apart by their server name
	Rest   bool // what neither tells apart belongs to a service
}

// Limits of an Index, kept by who makes one and checked by who reads one.
const (
	MaxPrefixes = 1024
	MaxPorts    = 65535
	MaxNames    = 16384
)

// Fingerprint of a host in lower case: FNV-1a of 32 bits, without the final dot.
func Fingerprint(host string) uint32 {
	h := uint32(2166136261)
	for i := range len(host) {
		if i == len(host)-1 && host[i] == '.' {
			break
		}
		h = (h ^ uint32(host[i])) * 16777619
	}
	return h
}

// Holds reports whether an address may be one of the mesh's.
func (x *Index) Holds(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	i, found := slices.BinarySearchFunc(x.Prefixes, a, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	return found || i > 0 && x.Prefixes[i-1].Contains(a)
}

// Port finds a port; false: nothing listens there for every address.
func (x *Index) Port(n uint16) (Port, bool) {
	i, ok := slices.BinarySearchFunc(x.Ports, n, func(p Port, n uint16) int { return int(p.Number) - int(n) })
	if !ok {
		return Port{}, false
	}
	return x.Ports[i], true
}

// MayName reports whether a host, in lower case and without a port, may mean
// something in the mesh. Names without a dot may, and addresses that are held;
// others when they or a wildcard above them are among the Names.
func (x *Index) MayName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	if x.EveryName || host != "" && strings.IndexByte(host, '.') < 0 && host[0] != '[' {
		return true
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && x.Holds(a) {
		return true
	}
	if len(x.Names) == 0 {
		return false
	}
	has := func(f uint32) bool { _, ok := slices.BinarySearch(x.Names, f); return ok }
	if has(Fingerprint(host)) || has(Fingerprint("*")) {
		return true
	}
	for i := range len(host) {
		if host[i] == '.' && has(Fingerprint("*"+host[i:])) {
			return true
		}
	}
	return false
}

// Encode writes tulle.ext.v1.Index: 1 prefix (address, length), 2 port {1 number,
// 2 by_host, 3 by_sni, 4 rest}, 3 allow_any, 5 names (4 bytes each, little
// endian), 6 every_name. Equal values give equal bytes.
func (x *Index) Encode() []byte {
	var b []byte
	for _, p := range x.Prefixes {
		b = appendBytes(b, 1, append(p.Addr().AsSlice(), byte(p.Bits())))
	}
	for _, p := range x.Ports {
		m := appendVarint(nil, 1, uint64(p.Number))
		b = appendBytes(b, 2, appendBool(appendBool(appendBool(m, 2, p.ByHost), 3, p.BySNI), 4, p.Rest))
	}
	b = appendBool(b, 3, x.AllowAny)
	if len(x.Names) > 0 {
		list := make([]byte, 0, 4*len(x.Names))
		for _, f := range x.Names {
			list = binary.LittleEndian.AppendUint32(list, f)
		}
		b = appendBytes(b, 5, list)
	}
	return appendBool(b, 6, x.EveryName)
}

var errMalformed = errors.New("malformed")

// ParseIndex reads what Encode wrote. It keeps nothing of b.
func ParseIndex(b []byte) (*Index, error) {
	x := &Index{}
	err := fields(b, func(n protowire.Number, v uint64, s []byte) error {
		switch n {
		case 1:
			return x.parsePrefix(s)
		case 2:
			return x.parsePort(s)
		case 3:
			x.AllowAny = v != 0
		case 5:
			if len(s)%4 != 0 || len(s) > 4*MaxNames {
				return fmt.Errorf("names of %d bytes", len(s))
			}
			x.Names = nil
			for ; len(s) > 0; s = s[4:] {
				x.Names = append(x.Names, binary.LittleEndian.Uint32(s))
			}
		case 6:
			x.EveryName = v != 0
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("index: %w", err)
	case !slices.IsSortedFunc(x.Prefixes, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }),
		!slices.IsSortedFunc(x.Ports, func(a, b Port) int { return int(a.Number) - int(b.Number) }), !slices.IsSorted(x.Names):
		return nil, errors.New("index: not sorted")
	}
	return x, nil
}

func (x *Index) parsePrefix(s []byte) error {
	if len(s) == 0 || len(x.Prefixes) == MaxPrefixes {
		return errMalformed
	}
	a, ok := netip.AddrFromSlice(s[:len(s)-1])
	p := netip.PrefixFrom(a, int(s[len(s)-1]))
	if !ok || !p.IsValid() || p != p.Masked() {
		return fmt.Errorf("prefix %x", s)
	}
	x.Prefixes = append(x.Prefixes, p)
	return nil
}

func (x *Index) parsePort(s []byte) error {
	if len(x.Ports) == MaxPorts {
		return errMalformed
	}
	var p Port
	err := fields(s, func(n protowire.Number, v uint64, _ []byte) error {
		switch n {
		case 1:
			if v == 0 || v > 65535 {
				return fmt.Errorf("port %d", v)
			}
			p.Number = uint16(v)
		case 2:
			p.ByHost = v != 0
		case 3:
			p.BySNI = v != 0
		case 4:
			p.Rest = v != 0
		}
		return nil
	})
	if err == nil && p.Number == 0 {
		err = errMalformed
	}
	x.Ports = append(x.Ports, p)
	return err
}

// Prefixes joins addresses and ranges to sorted prefixes, none within another.
func Prefixes(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	for i := range list {
		list[i] = list[i].Masked()
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if d := a.Addr().Compare(b.Addr()); d != 0 {
			return d
		}
		return a.Bits() - b.Bits()
	})
	out := list[:0]
	for _, p := range list {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}
