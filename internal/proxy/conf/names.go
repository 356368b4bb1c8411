package conf

import (
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// NDSType is the type URL of Istio's name table.
const NDSType = "type.googleapis.com/istio.networking.nds.v1.NameTable"

// NameTable says which addresses the names of the mesh have. Immutable.
type NameTable struct {
	Hosts map[string]*NameInfo // by full name in lower case, without a dot at the end; may begin with "*."
}

// NameInfo is one name of a NameTable.
type NameInfo struct {
	Addresses []netip.Addr
	Short     string // of a Kubernetes service: its name there
	Namespace string
}

// Bounds of a name table.
const (
	maxHosts         = 200_000
	maxHostAddresses = 10_000
)

// DecodeNames reads an istio.networking.nds.v1.NameTable.
func DecodeNames(b []byte) (*NameTable, error) {
	out := &NameTable{Hosts: map[string]*NameInfo{}}
	err := fields(b, func(n protowire.Number, v []byte) error {
		if n != 1 {
			return nil // name_info is of lookups by name, which are never asked for
		}
		host, info, err := nameEntry(v)
		if err != nil {
			return fmt.Errorf("table[%q]: %w", host, err)
		}
		if len(out.Hosts) >= maxHosts {
			return fmt.Errorf("more than %d names", maxHosts)
		}
		out.Hosts[strings.ToLower(strings.TrimSuffix(host, "."))] = info
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func nameEntry(b []byte) (host string, info *NameInfo, err error) {
	info = &NameInfo{}
	err = fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			host = string(v)
		case 2:
			return fields(v, func(n protowire.Number, v []byte) error {
				switch n {
				case 1:
					a, err := netip.ParseAddr(string(v))
					if err != nil {
						return fmt.Errorf("ips: %w", err)
					}
					if len(info.Addresses) >= maxHostAddresses {
						return fmt.Errorf("more than %d addresses", maxHostAddresses)
					}
					info.Addresses = append(info.Addresses, a.Unmap())
				case 3:
					info.Short = strings.ToLower(string(v))
				case 4:
					info.Namespace = strings.ToLower(string(v))
				}
				return nil
			})
		}
		return nil
	})
	if err == nil && (host == "" || len(host) > 255) {
		err = fmt.Errorf("a name has 1 to 255 bytes")
	}
	return host, info, err
}

// fields calls f for each length-delimited field; a name table has no others.
func fields(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			return fmt.Errorf("field %d has wire type %d", num, typ)
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(num, v); err != nil {
			return err
		}
	}
	return nil
}
