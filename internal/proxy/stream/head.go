package stream

// Field is one header line. Name is lower-case.
type Field struct{ Name, Value []byte }

// Head is the head of a request or response, or trailers (Fields only). The
// byte slices point into storage that the Head owns; they stay valid until
// Reset or until the Head is pooled. The zero value is ready to use.
//
// Invariant: Fields holds no pseudo-headers, no host (Authority instead), no
// connection-specific fields (RFC 9110 7.6.1), no content-length on messages
// whose length is unknown, no transfer-encoding. Upgrade is kept in Protocol.
type Head struct {
	Method    []byte // requests
	Scheme    []byte // "http" or "https"; as seen by the server codec
	Authority []byte // Host or :authority, with port if there was one
	Path      []byte // with query; "*" for OPTIONS *; empty for CONNECT
	Protocol  []byte // Upgrade token or :protocol, lower-case; empty: none
	Status    int    // responses
	Reason    []byte // HTTP/1 reason phrase, may be empty
	Version   uint8  // 10, 11 or 20: what the peer spoke
	Length    int64  // content-length; -1: not known; see Body
	Body      bool   // false: the message has no body by its form
	Fields    []Field
	store     []byte
}

// Reset empties h and keeps its storage for reuse.
func (h *Head) Reset() {
	clear(h.Fields)
	fields, store := h.Fields[:0], h.store[:0]
	*h = Head{} // in place: one with values in it would be made on the stack and copied
	h.Fields, h.store, h.Length = fields, store, -1
}

// Keep copies b into the head's storage.
func (h *Head) Keep(b []byte) []byte {
	n := len(h.store)
	h.store = append(h.store, b...)
	return h.store[n:len(h.store):len(h.store)]
}

// KeepString copies s into the head's storage.
func (h *Head) KeepString(s string) []byte {
	n := len(h.store)
	h.store = append(h.store, s...)
	return h.store[n:len(h.store):len(h.store)]
}

// KeepLower copies b lower-cased (ASCII) into the head's storage.
func (h *Head) KeepLower(b []byte) []byte {
	n := len(h.store)
	h.store = append(h.store, b...)
	k := h.store[n:len(h.store):len(h.store)]
	for i, c := range k {
		if c-'A' < 26 {
			k[i] = c | 0x20
		}
	}
	return k
}

// CopyFrom makes h a copy of o in h's own storage.
func (h *Head) CopyFrom(o *Head) {
	h.Reset()
	h.Status, h.Version, h.Length, h.Body = o.Status, o.Version, o.Length, o.Body
	h.Method, h.Scheme, h.Authority = h.Keep(o.Method), h.Keep(o.Scheme), h.Keep(o.Authority)
	h.Path, h.Protocol, h.Reason = h.Keep(o.Path), h.Keep(o.Protocol), h.Keep(o.Reason)
	for i := range o.Fields {
		h.Fields = append(h.Fields, Field{h.Keep(o.Fields[i].Name), h.Keep(o.Fields[i].Value)})
	}
}

// Take makes h what o is and leaves to o the storage that h had: nothing is
// copied. Slices of o that others hold belong to h from then on.
func (h *Head) Take(o *Head) {
	h.Reset()
	*h, *o = *o, *h
}

// Get returns the value of the first field of that (lower-case) name, nil
// when there is none; an empty value is not nil.
func (h *Head) Get(name string) []byte {
	for i := range h.Fields {
		if string(h.Fields[i].Name) == name {
			if v := h.Fields[i].Value; v != nil {
				return v
			}
			return []byte{}
		}
	}
	return nil
}

// Has reports whether a field of that name exists.
func (h *Head) Has(name string) bool { return h.Get(name) != nil }

// Joined returns all values of that name joined by ",", as Envoy does before
// it matches; without a second field it allocates nothing.
func (h *Head) Joined(name string) []byte {
	var v []byte
	n := 0
	for i := range h.Fields {
		if string(h.Fields[i].Name) != name {
			continue
		}
		if n++; n == 1 {
			v = h.Fields[i].Value
			if v == nil {
				v = []byte{}
			}
			continue
		}
		v = append(append(v[:len(v):len(v)], ','), h.Fields[i].Value...)
	}
	return v
}

// Count is how many fields have that name, lower-case.
func (h *Head) Count(name string) int {
	n := 0
	for i := range h.Fields {
		if string(h.Fields[i].Name) == name {
			n++
		}
	}
	return n
}

// AddKept appends a field, copied into the head's storage. Its name must be
// lower-case.
func (h *Head) AddKept(name, value []byte) {
	n := len(h.store)
	h.store = append(append(h.store, name...), value...)
	k, end := n+len(name), len(h.store)
	h.Fields = append(h.Fields, Field{h.store[n:k:k], h.store[k:end:end]})
}

// Add appends a field; name must be lower-case. Both are copied.
func (h *Head) Add(name string, value []byte) {
	h.Fields = append(h.Fields, Field{h.KeepString(name), h.Keep(value)})
}

// AddString is Add for a string value.
func (h *Head) AddString(name, value string) {
	h.Fields = append(h.Fields, Field{h.KeepString(name), h.KeepString(value)})
}

// Set replaces all fields of that name by one.
func (h *Head) Set(name string, value []byte) {
	i := h.index(name, 0)
	if i < 0 {
		h.Add(name, value)
		return
	}
	h.Fields[i].Value = h.Keep(value)
	h.del(name, i+1)
}

// Del removes all fields of that name.
func (h *Head) Del(name string) { h.del(name, 0) }

// index is where the first field of that name is, from one on; -1: nowhere.
func (h *Head) index(name string, from int) int {
	for i := from; i < len(h.Fields); i++ {
		if string(h.Fields[i].Name) == name {
			return i
		}
	}
	return -1
}

// del removes the fields of that name from one on. Most often there is none.
func (h *Head) del(name string, from int) {
	i := h.index(name, from)
	if i < 0 {
		return
	}
	out := h.Fields[:i]
	for _, f := range h.Fields[i+1:] {
		if string(f.Name) != name {
			out = append(out, f)
		}
	}
	clear(h.Fields[len(out):])
	h.Fields = out
}
