package xds

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Codec is for gRPC servers whose Server has Config.Encoded: responses are put
// together from resources that were encoded once for all clients. Everything
// else it leaves to the usual codec.
type Codec struct{ encoding.CodecV2 }

// NewCodec makes a Codec.
func NewCodec() Codec { return Codec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*message); ok {
		return m.parts, nil
	}
	b, err := c.CodecV2.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// message is an encoded response: what is its own, and between that resources,
// which are not copied: the same bytes go to all clients.
type message struct {
	parts mem.BufferSlice
	own   []byte
}

// large is what is sent from where it is, in bytes. Less costs less to copy.
const large = 256

// encode is the resource as field 2 of a delta response, an
// envoy.service.discovery.v3.Resource: 1 version, 3 name, 2 resource {1 type_url,
// 2 value}. Body stands at its end; inner is where the Resource begins.
func (r *Resource) encode() (b []byte, inner int) {
	var head [256]byte
	in := text(head[:0], 1, r.Type)
	in = protowire.AppendVarint(protowire.AppendTag(in, 2, protowire.BytesType), uint64(len(r.Body)))
	size := 3 + protowire.SizeBytes(len(r.Version)) + protowire.SizeBytes(len(r.Name)) + protowire.SizeBytes(len(in)+len(r.Body))
	b = make([]byte, 0, 1+protowire.SizeBytes(size))
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(size))
	inner = len(b)
	b = text(text(b, 1, r.Version), 3, r.Name)
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(len(in)+len(r.Body)))
	b = append(b, in...)
	return append(b, r.Body...), inner
}

func text(b []byte, n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

// put adds bytes that are shared.
func (m *message) put(b []byte, shared mem.Buffer) {
	if len(b) < large {
		m.own = append(m.own, b...)
		return
	}
	m.flush()
	if shared == nil {
		shared = mem.SliceBuffer(b)
	}
	m.parts = append(m.parts, shared)
}

func (m *message) flush() {
	if len(m.own) > 0 {
		m.parts = append(m.parts, mem.SliceBuffer(m.own))
		m.own = m.own[len(m.own):]
	}
}

// encodeDelta is r as envoy.service.discovery.v3.DeltaDiscoveryResponse: 1
// system_version_info, 2 resources, 4 type_url, 5 nonce, 6 removed_resources, 7
// control_plane {1 identifier}.
func encodeDelta(r *response, version, name string) *message {
	m := &message{parts: make(mem.BufferSlice, 0, 1+len(r.resources)), own: make([]byte, 0, 256)}
	m.own = text(text(m.own, 1, version), 4, r.typeURL)
	m.own = text(m.own, 5, r.nonce)
	for _, n := range r.removed {
		m.own = text(m.own, 6, n)
	}
	m.own = protowire.AppendBytes(protowire.AppendTag(m.own, 7, protowire.BytesType), text(nil, 1, name))
	for _, x := range r.resources {
		wire, inner := x.wire, x.inner
		if wire == nil {
			wire, inner = x.encode()
		}
		if len(r.aliases[x.Name]) == 0 {
			m.put(wire, x.shared)
			continue
		}
		also := 0
		for _, a := range r.aliases[x.Name] {
			also += 1 + protowire.SizeBytes(len(a))
		}
		m.own = protowire.AppendVarint(protowire.AppendTag(m.own, 2, protowire.BytesType), uint64(len(wire)-inner+also))
		for _, a := range r.aliases[x.Name] {
			m.own = text(m.own, 4, a)
		}
		m.put(wire[inner:], nil)
	}
	m.flush()
	return m
}

// encodeSotw is r as envoy.service.discovery.v3.DiscoveryResponse: 1
// version_info, 2 resources, 4 type_url, 5 nonce, 6 control_plane {1 identifier}.
func encodeSotw(r *response, version, name string) *message {
	m := &message{}
	m.own = text(text(m.own, 1, version), 4, r.typeURL)
	m.own = text(m.own, 5, r.nonce)
	m.own = protowire.AppendBytes(protowire.AppendTag(m.own, 6, protowire.BytesType), text(nil, 1, name))
	for _, x := range r.resources {
		in := text(nil, 1, x.Type)
		in = protowire.AppendVarint(protowire.AppendTag(in, 2, protowire.BytesType), uint64(len(x.Body)))
		m.own = protowire.AppendVarint(protowire.AppendTag(m.own, 2, protowire.BytesType), uint64(len(in)+len(x.Body)))
		m.own = append(m.own, in...)
		m.put(x.Body, nil)
	}
	m.flush()
	return m
}
