package hpack

// MaxTable is the dynamic table size of both directions, in the bytes that
// RFC 7541 4.1 counts. It is the protocol's default, never raised.
const MaxTable = 4096

// staticNames and staticValues are RFC 7541 appendix A, from index 1.
var staticTable = [62][2]string{
	1: {":authority", ""}, 2: {":method", "GET"}, 3: {":method", "POST"}, 4: {":path", "/"},
	5: {":path", "/index.html"}, 6: {":scheme", "http"}, 7: {":scheme", "https"}, 8: {":status", "200"},
	9: {":status", "204"}, 10: {":status", "206"}, 11: {":status", "304"}, 12: {":status", "400"},
	13: {":status", "404"}, 14: {":status", "500"}, 15: {"accept-charset", ""},
	16: {"accept-encoding", "gzip, deflate"}, 17: {"accept-language", ""}, 18: {"accept-ranges", ""},
	19: {"accept", ""}, 20: {"access-control-allow-origin", ""}, 21: {"age", ""}, 22: {"allow", ""},
	23: {"authorization", ""}, 24: {"cache-control", ""}, 25: {"content-disposition", ""},
	26: {"content-encoding", ""}, 27: {"content-language", ""}, 28: {"content-length", ""},
	29: {"content-location", ""}, 30: {"content-range", ""}, 31: {"content-type", ""}, 32: {"cookie", ""},
	33: {"date", ""}, 34: {"etag", ""}, 35: {"expect", ""}, 36: {"expires", ""}, 37: {"from", ""},
	38: {"host", ""}, 39: {"if-match", ""}, 40: {"if-modified-since", ""}, 41: {"if-none-match", ""},
	42: {"if-range", ""}, 43: {"if-unmodified-since", ""}, 44: {"last-modified", ""}, 45: {"link", ""},
	46: {"location", ""}, 47: {"max-forwards", ""}, 48: {"proxy-authenticate", ""},
	49: {"proxy-authorization", ""}, 50: {"range", ""}, 51: {"referer", ""}, 52: {"refresh", ""},
	53: {"retry-after", ""}, 54: {"server", ""}, 55: {"set-cookie", ""}, 56: {"strict-transport-security", ""},
	57: {"transfer-encoding", ""}, 58: {"user-agent", ""}, 59: {"vary", ""}, 60: {"via", ""},
	61: {"www-authenticate", ""},
}

// staticFields is the same as bytes. Read only.
var staticFields = func() (t [62]Field) {
	for i, f := range staticTable {
		t[i] = Field{Name: []byte(f[0]), Value: []byte(f[1])}
	}
	return t
}()

// entry is a field of the dynamic table; its bytes begin at off - base of buf.
type entry struct {
	off           uint32
	nameLen, vLen uint16
	checked       bool // see Decoder.Checked
}

// table is the dynamic table (RFC 7541 2.3.2): a ring of entries over one
// buffer that is moved together when its end is reached.
type table struct {
	ring     []entry // length a power of two
	oldest   uint32  // ordinal of the oldest entry
	inserted uint32  // ordinal after the newest entry
	size     int     // as RFC 7541 4.1 counts
	max      int
	buf      []byte
	base     uint32 // offset of buf[0]
	head     uint32 // offset of the oldest byte in use
}

func (t *table) len() int { return int(t.inserted - t.oldest) }

// entry is that of an ordinal in [oldest, inserted), until the next add.
func (t *table) entry(ordinal uint32) *entry { return &t.ring[ordinal&uint32(len(t.ring)-1)] }

// at returns the entry of an ordinal in [oldest, inserted). The slices are
// valid until the next add.
func (t *table) at(ordinal uint32) (name, value []byte) {
	e := t.entry(ordinal)
	b := t.buf[e.off-t.base:]
	n, v := int(e.nameLen), int(e.nameLen)+int(e.vLen)
	return b[:n:n], b[n:v:v]
}

// add inserts a field and evicts what no longer fits. name and value must not
// point into the table. It returns the entry, until the next add; nil: the field
// is larger than the table.
func (t *table) add(name, value []byte) *entry {
	size := len(name) + len(value) + 32
	if size > t.max {
		t.shrink(0)
		return nil
	}
	t.shrink(t.max - size)
	if t.len() == len(t.ring) {
		t.growRing()
	}
	n := len(name) + len(value)
	if len(t.buf)+n > cap(t.buf) {
		t.makeRoom(n)
	}
	off := t.base + uint32(len(t.buf))
	t.buf = append(append(t.buf, name...), value...)
	e := t.entry(t.inserted)
	*e = entry{off: off, nameLen: uint16(len(name)), vLen: uint16(len(value))}
	t.inserted++
	t.size += size
	return e
}

// shrink evicts from the oldest on until size is at most max.
func (t *table) shrink(max int) {
	for t.size > max {
		e := &t.ring[t.oldest&uint32(len(t.ring)-1)]
		n := int(e.nameLen) + int(e.vLen)
		t.head = e.off + uint32(n)
		t.size -= n + 32
		t.oldest++
	}
	if t.oldest == t.inserted {
		t.buf, t.base, t.head = t.buf[:0], 0, 0
	}
}

func (t *table) setMax(n int) {
	t.max = n
	t.shrink(n)
}

func (t *table) growRing() {
	ring := make([]entry, max(8, 2*len(t.ring)))
	for i := t.oldest; i != t.inserted; i++ {
		ring[i&uint32(len(ring)-1)] = t.ring[i&uint32(len(t.ring)-1)]
	}
	t.ring = ring
}

// makeRoom moves the bytes in use to the front, of a larger buffer when they
// fill more than half of this one.
func (t *table) makeRoom(n int) {
	live := t.buf[t.head-t.base:]
	if 2*(len(live)+n) > cap(t.buf) {
		t.buf = append(make([]byte, 0, max(256, 3*(len(live)+n))), live...)
	} else {
		t.buf = append(t.buf[:0], live...)
	}
	t.base = t.head
}
