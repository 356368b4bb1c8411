package hpack

import (
	"hash/maphash"
	"strconv"
)

// class says how values of a name are written.
type class uint8

const (
	unknown  class = iota // never indexed: it may be a secret, or was marked as one
	plain                 // literal: it changes too often for a table
	repeated              // enters the table when it is seen again
	secret                // never indexed
)

type nameInfo struct {
	name  string
	index uint8 // first static index, 0: none
	last  uint8 // last static index of that name
	class class
}

// repeatedNames are names beside those of the static table whose values recur
// on a connection and are no secrets.
var repeatedNames = []string{
	":authority", ":path", ":method", ":scheme", ":status", ":protocol",
	"accept", "accept-charset", "accept-encoding", "accept-language", "accept-ranges",
	"access-control-allow-origin", "allow", "cache-control", "content-encoding", "content-language",
	"content-type", "expect", "from", "host", "link", "server", "strict-transport-security",
	"user-agent", "vary", "via", "www-authenticate",
	"te", "trailer", "grpc-status", "grpc-encoding", "grpc-accept-encoding", "grpc-timeout",
	"x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-client-cert",
	"x-envoy-peer-metadata", "x-envoy-peer-metadata-id", "x-envoy-attempt-count",
	"x-envoy-decorator-operation", "x-envoy-upstream-service-time", "x-envoy-expected-rq-timeout-ms",
	"tulle-orig", "origin", "pragma", "upgrade-insecure-requests", "x-powered-by", "alt-svc",
	"x-content-type-options", "x-frame-options", "access-control-allow-methods",
	"access-control-allow-headers", "access-control-allow-credentials", "access-control-expose-headers",
	"sec-fetch-mode", "sec-fetch-site", "sec-fetch-dest", "sec-websocket-version",
}

var plainNames = []string{"x-request-id", "traceparent", "tracestate", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-forwarded-for", "content-length", "date", "grpc-message"}

var secretNames = []string{"authorization", "proxy-authorization", "cookie", "set-cookie"}

// known is a hash table of names without collisions: nameHash(name, knownMul).
var (
	known    [1024]nameInfo
	knownMul uint32
)

func nameHash(n []byte, mul uint32) uint32 {
	l := len(n)
	h := uint32(l)<<24 ^ uint32(n[0])<<16 ^ uint32(n[l-1])<<8 ^ uint32(n[l/2]) ^ uint32(n[l*3/4])<<20 ^ uint32(n[l/4])<<12
	return h * mul >> 22
}

func init() {
	all := map[string]nameInfo{}
	for i := 61; i > 0; i-- {
		n := staticTable[i][0]
		info := all[n]
		if info.last == 0 {
			info = nameInfo{name: n, last: uint8(i), class: plain}
		}
		info.index = uint8(i)
		all[n] = info
	}
	for c, names := range map[class][]string{plain: plainNames, repeated: repeatedNames, secret: secretNames} {
		for _, n := range names {
			info := all[n]
			info.name, info.class = n, c
			all[n] = info
		}
	}
	for knownMul = 0x9e3779b1; ; knownMul += 2 {
		known = [1024]nameInfo{}
		clash := false
		for n, info := range all {
			slot := &known[nameHash([]byte(n), knownMul)]
			clash = clash || slot.name != ""
			*slot = info
		}
		if !clash {
			return
		}
	}
}

// Encoder writes the field blocks of one direction of a connection. The zero
// value is ready to use. Strings are not Huffman-coded: in a mesh their CPU
// costs more than their bytes.
type Encoder struct {
	t      table
	used   bool
	resize bool
	// seen remembers, by hash, what was written lately: a value enters the
	// table when it comes a second time, so that one-time values (paths with
	// ids) do not push out the lasting ones.
	seen [64]sighting
}

type sighting struct {
	tag     uint32
	ordinal uint32 // of the table entry, plus 1; 0: not in the table
}

var seed = maphash.MakeSeed()

// maxRepeated bounds values in the table, in bytes.
const maxRepeated = 1024

// SetMax takes over the peer's SETTINGS_HEADER_TABLE_SIZE. A table that was
// made smaller stays so: one size update per block is all that every peer
// understands (golang.org/x/net refuses a second one).
func (e *Encoder) SetMax(n uint32) {
	e.begin()
	if n < uint32(e.t.max) {
		e.resize = true
		e.t.setMax(int(n))
	}
}

func (e *Encoder) begin() {
	if !e.used {
		e.used, e.t.max = true, MaxTable
	}
}

// Start begins a block: it appends a table size update when one is due.
func (e *Encoder) Start(o []byte) []byte {
	e.begin()
	if e.resize {
		e.resize = false
		o = appendInt(o, 0x20, 5, e.t.max)
	}
	return o
}

// Status appends :status.
func (e *Encoder) Status(o []byte, status int) []byte {
	switch status {
	case 200:
		return append(o, 0x88)
	case 204, 206, 304, 400, 404, 500:
		for i := 9; i <= 14; i++ {
			if b := staticFields[i].Value; int(b[0]-'0')*100+int(b[1]-'0')*10+int(b[2]-'0') == status {
				return append(o, 0x80|byte(i))
			}
		}
	}
	var buf [8]byte
	return e.Append(o, staticFields[8].Name, strconv.AppendInt(buf[:0], int64(status), 10))
}

// Append appends a field; name is lower-case and not empty.
func (e *Encoder) Append(o, name, value []byte) []byte {
	slot := &known[nameHash(name, knownMul)]
	if slot.name != string(name) {
		return appendLiteral(o, 0x10, 4, 0, name, value)
	}
	index := int(slot.index)
	switch slot.class {
	case secret:
		return appendLiteral(o, 0x10, 4, index, name, value)
	case plain:
		return appendLiteral(o, 0, 4, index, name, value)
	}
	for i := index; i > 0 && i <= int(slot.last); i++ {
		if string(staticFields[i].Value) == string(value) && len(value) > 0 {
			return append(o, 0x80|byte(i))
		}
	}
	if len(value) > maxRepeated || len(name)+len(value)+32 > e.t.max {
		return appendLiteral(o, 0, 4, index, name, value)
	}
	h := maphash.Bytes(seed, value)
	tag := uint32(h>>32) ^ uint32(len(name))<<24 ^ nameHash(name, knownMul) ^ 1
	s := &e.seen[uint32(h)&uint32(len(e.seen)-1)]
	if s.tag != tag {
		*s = sighting{tag: tag}
		return appendLiteral(o, 0, 4, index, name, value)
	}
	if age := e.t.inserted - s.ordinal; s.ordinal != 0 && age < uint32(e.t.len()) {
		if n, v := e.t.at(s.ordinal - 1); string(n) == string(name) && string(v) == string(value) {
			return appendInt(o, 0x80, 7, len(staticFields)+int(age))
		}
	}
	e.t.add(name, value)
	s.ordinal = e.t.inserted
	return appendLiteral(o, 0x40, 6, index, name, value)
}

// appendLiteral appends a literal field with an n-bit name index.
func appendLiteral(o []byte, first byte, n uint, index int, name, value []byte) []byte {
	o = appendInt(o, first, n, index)
	if index == 0 {
		o = appendInt(o, 0, 7, len(name))
		o = append(o, name...)
	}
	o = appendInt(o, 0, 7, len(value))
	return append(o, value...)
}

// appendInt appends an integer with an n-bit prefix (RFC 7541 5.1).
func appendInt(o []byte, first byte, n uint, v int) []byte {
	mask := 1<<n - 1
	if v < mask {
		return append(o, first|byte(v))
	}
	o = append(o, first|byte(mask))
	for v -= mask; v >= 0x80; v >>= 7 {
		o = append(o, byte(v)|0x80)
	}
	return append(o, byte(v))
}
