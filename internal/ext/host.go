package ext

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/encoding/protowire"
)

// Host is the answer to a question for a name of the mesh, as its DNS would give
// it, and what connections to it will ask for. Immutable.
type Host struct {
	Addresses []netip.Addr
	Listeners []string // names of listeners, to be asked for ahead
	Routes    []string // names of route tables, to be asked for ahead
}

// Limits of a Host.
const (
	MaxAddresses = 10_000
	MaxAhead     = 16 // of Listeners and of Routes
)

// Encode writes tulle.ext.v1.Host: 1 address (4 or 16 bytes), 2 listener, 3 route.
func (h *Host) Encode() []byte {
	var b []byte
	for _, a := range h.Addresses {
		b = appendBytes(b, 1, a.AsSlice())
	}
	for _, n := range h.Listeners {
		b = appendBytes(b, 2, []byte(n))
	}
	for _, n := range h.Routes {
		b = appendBytes(b, 3, []byte(n))
	}
	return b
}

// ParseHost reads what Encode wrote. It keeps nothing of b.
func ParseHost(b []byte) (*Host, error) {
	h := &Host{}
	err := fields(b, func(n protowire.Number, _ uint64, s []byte) error {
		switch n {
		case 1:
			a, ok := netip.AddrFromSlice(s)
			if !ok || len(h.Addresses) == MaxAddresses {
				return errMalformed
			}
			h.Addresses = append(h.Addresses, a)
		case 2:
			if len(h.Listeners) < MaxAhead {
				h.Listeners = append(h.Listeners, string(s))
			}
		case 3:
			if len(h.Routes) < MaxAhead {
				h.Routes = append(h.Routes, string(s))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	return h, nil
}

// fields calls each with every field of a message: with v for numbers, with s for
// the rest.
func fields(b []byte, each func(n protowire.Number, v uint64, s []byte) error) error {
	for len(b) > 0 {
		n, t, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		var v uint64
		var s []byte
		switch t {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			s, size = protowire.ConsumeBytes(b)
		default:
			size = protowire.ConsumeFieldValue(n, t, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if err := each(n, v, s); err != nil {
			return err
		}
	}
	return nil
}

func appendBytes(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func appendVarint(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func appendBool(b []byte, n protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendVarint(b, n, 1)
}
