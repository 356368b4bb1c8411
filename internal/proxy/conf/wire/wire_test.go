package wire

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func field(n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), v)
}

func number(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func join(bs ...[]byte) (out []byte) {
	for _, b := range bs {
		out = append(out, b...)
	}
	return out
}

// What the descriptors do not allow, or the table refuses, is an error with
// its path. Field numbers are those of the published messages.
func TestRefuses(t *testing.T) {
	cluster := func(b []byte) error { _, err := DecodeCluster(b); return err }
	routes := func(b []byte) error { _, err := DecodeRouteConfiguration(b); return err }
	route := func(b []byte) []byte { return field(2, field(3, b)) } // virtual_hosts[0].routes[0]
	for _, c := range []struct {
		name   string
		decode func([]byte) error
		in     []byte
		want   string
	}{
		{"unknown field", cluster, number(999, 1), "field number 999 is not known"},
		{"unknown field within", cluster, field(3, number(999, 1)), "eds_cluster_config: field number 999 is not known"},
		{"unknown oneof member", routes, route(field(1, field(99, nil))), "virtual_hosts[0].routes[0].match: field number 99 is not known"},
		{"two oneof members", routes, route(join(field(2, nil), field(3, nil))), "virtual_hosts[0].routes[0].action: set twice"},
		{"message twice", cluster, join(field(4, nil), field(4, nil)), "connect_timeout: set twice"},
		{"unknown enum value", cluster, number(6, 77), "lb_policy: enum value 77 is not known"},
		{"negative enum value", cluster, number(6, 1<<64-1), "lb_policy: enum value -1 is not known"},
		{"wrong wire type", cluster, number(1, 7), "name: malformed: wire type 0 does not fit"},
		{"wrong wire type of harmless", cluster, protowire.AppendFixed32(protowire.AppendTag(nil, 32, protowire.Fixed32Type), 1), "malformed: wire type 5 does not fit"},
		{"bad UTF-8", cluster, field(1, []byte("\xff")), "name: not valid UTF-8"},
		{"cut off", cluster, field(1, []byte("abc"))[:3], "name: malformed: unexpected EOF"},
		{"refused scalar", cluster, number(31, 1), "close_connections_on_host_health_failure: not supported"},
		{"unknown extension", cluster, field(24, field(3, field(1, []byte("type.googleapis.com/x.Y")))), `transport_socket.typed_config: extension "type.googleapis.com/x.Y" is not known here`},
		{"another prefix", cluster, field(24, field(3, field(1, []byte("example.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")))),
			`transport_socket.typed_config: extension "example.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" is not known here`},
		{"map key twice", cluster, field(25, join(field(1, field(1, []byte("k"))), field(1, field(1, []byte("k"))))), `metadata.filter_metadata["k"]: set twice`},
		{"duration", cluster, field(4, number(2, 1e9)), "connect_timeout: duration out of range"},
		{"duration of mixed signs", cluster, field(4, join(number(1, 1), number(2, 1<<64-1))), "connect_timeout: duration out of range"},
	} {
		err := c.decode(c.in)
		var e *Error
		if !errors.As(err, &e) || err.Error() != c.want {
			t.Errorf("%s:\ngot  %v\nwant %s", c.name, err, c.want)
		}
	}
}

// A refused scalar that holds its default is the same as an absent one.
func TestDefaultIsAbsent(t *testing.T) {
	for _, b := range [][]byte{number(31, 0), protowire.AppendTag(nil, 31, protowire.VarintType)} {
		if len(b) < 3 {
			b = append(b, 0x80, 0) // not the shortest form of 0
		}
		if _, err := DecodeCluster(b); err != nil {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// Depth, number and size are bounded.
func TestBounds(t *testing.T) {
	deep := number(3, 1) // any
	for range 100 {
		deep = field(8, deep) // not_rule
	}
	policy := field(1, deep)
	rbac := field(2, join(field(1, []byte("p")), field(2, policy)))
	m := new(Rbac)
	if err := m.decode(&decoder{left: maxMessages}, rbac); err == nil || !strings.Contains(err.Error(), "nested deeper than 64 messages") {
		t.Errorf("depth: %v", err)
	}
	if _, err := DecodeCluster(make([]byte, MaxBytes+1)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("size: %v", err)
	}
	if _, err := DecodeRouteConfiguration(make([]byte, 0)); err != nil {
		t.Errorf("empty: %v", err)
	}
	many := make([]byte, 0, 2*maxMessages+2)
	for range maxMessages + 1 {
		many = append(many, 0x12, 0) // virtual_hosts, empty
	}
	if _, err := DecodeRouteConfiguration(many); err == nil || !strings.Contains(err.Error(), "more than 524288 messages") {
		t.Errorf("number: %v", err)
	}
}
