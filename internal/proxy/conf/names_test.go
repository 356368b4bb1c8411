package conf

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// field appends a length-delimited field.
func field(b []byte, n protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func TestDecodeNamesRefuses(t *testing.T) {
	entry := func(host string, info []byte) []byte {
		return field(nil, 1, string(field(field(nil, 1, host), 2, string(info))))
	}
	for want, b := range map[string][]byte{
		"1 to 255 bytes": entry("", nil),
		"to 255 bytes":   entry(strings.Repeat("x", 256), nil),
		"ips:":           entry("x", field(nil, 1, "10.0.0")),
		"wire type":      {0x08, 0x01},
		"EOF":            {0x0a, 0x10, 0x00},
	} {
		if _, err := Decode(NDSType, "names", b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	n, err := DecodeNames(entry("Users.Shop.", field(nil, 1, "::ffff:10.0.0.1")))
	if err != nil || n.Hosts["users.shop"] == nil || n.Hosts["users.shop"].Addresses[0].String() != "10.0.0.1" {
		t.Errorf("%+v, %v", n, err)
	}
}

// FuzzDecodeNames: whatever comes is refused or a table.
func FuzzDecodeNames(f *testing.F) {
	f.Add(field(nil, 1, string(field(field(nil, 1, "users.shop"), 2, string(field(nil, 1, "10.0.0.1"))))))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := DecodeNames(b)
		if err != nil {
			return
		}
		for host, i := range n.Hosts {
			if len(host) > 255 || host != strings.ToLower(host) {
				t.Fatalf("name %q", host)
			}
			for _, a := range i.Addresses {
				if !a.IsValid() || a.Is4In6() {
					t.Fatalf("address %v", a)
				}
			}
		}
	})
}
