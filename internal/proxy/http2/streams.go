package http2

// streamTable finds streams by id: open addressing with linear probing, so
// that opening and closing streams allocates nothing once it has grown.
type streamTable struct {
	slots []*h2stream // length a power of two
	n     int
}

func (t *streamTable) slot(id uint32) uint32 {
	return (id >> 1 * 0x9e3779b1) >> 7 & uint32(len(t.slots)-1)
}

func (t *streamTable) get(id uint32) *h2stream {
	if t.n == 0 {
		return nil
	}
	for i := t.slot(id); ; i = (i + 1) & uint32(len(t.slots)-1) {
		if s := t.slots[i]; s == nil || s.id == id {
			return s
		}
	}
}

func (t *streamTable) put(s *h2stream) {
	if 2*t.n >= len(t.slots) {
		old := t.slots
		t.slots = make([]*h2stream, max(8, 2*len(old)))
		t.n = 0
		for _, o := range old {
			if o != nil {
				t.put(o)
			}
		}
	}
	i := t.slot(s.id)
	for t.slots[i] != nil {
		i = (i + 1) & uint32(len(t.slots)-1)
	}
	t.slots[i] = s
	t.n++
}

func (t *streamTable) del(id uint32) {
	if t.n == 0 {
		return
	}
	mask := uint32(len(t.slots) - 1)
	i := t.slot(id)
	for t.slots[i] == nil || t.slots[i].id != id {
		if t.slots[i] == nil {
			return
		}
		i = (i + 1) & mask
	}
	t.n--
	// Close the gap: move back what would not be found across it.
	for j := i; ; {
		t.slots[i] = nil
		for {
			j = (j + 1) & mask
			s := t.slots[j]
			if s == nil {
				return
			}
			if k := t.slot(s.id); (j-k)&mask >= (j-i)&mask {
				t.slots[i] = s
				i = j
				break
			}
		}
	}
}

// all appends the streams to dst.
func (t *streamTable) all(dst []*h2stream) []*h2stream {
	for _, s := range t.slots {
		if s != nil {
			dst = append(dst, s)
		}
	}
	return dst
}
