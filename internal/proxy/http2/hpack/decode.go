package hpack

import "errors"

// Errors of Next; each is a COMPRESSION_ERROR of the whole connection.
var (
	errInteger = errors.New("malformed integer")
	errIndex   = errors.New("no such table index")
	errString  = errors.New("malformed string")
	errHuffman = errors.New("malformed huffman code")
	errResize  = errors.New("table size update out of place or too large")
)

// Field is a decoded field.
type Field struct {
	Name, Value []byte
	Sensitive   bool // never-indexed literal (RFC 7541 7.1.3)
	Checked     bool // an entry of the table, of which Check was said
}

// Decoder reads the field blocks of one direction of a connection. The zero
// value is ready to use.
type Decoder struct {
	t       table
	used    bool
	block   []byte
	scratch *[]byte
	first   bool   // no field of this block was read yet
	last    *entry // of the field that Next returned; nil: none
}

// Start begins a whole block. scratch lends storage for decoded strings; it
// may grow. Both are used until the block's last Next.
func (d *Decoder) Start(block []byte, scratch *[]byte) {
	if !d.used {
		d.used, d.t.max = true, MaxTable
	}
	d.block, d.scratch, d.first = block, scratch, true
}

// Check remembers that there is nothing to object to the field which Next has
// just returned, nor anything to be done about it: it is Checked when its entry
// of the table comes again.
func (d *Decoder) Check() {
	if d.last != nil {
		d.last.checked = true
	}
}

// Next fills in f with the next field; ok is false at the end of the block. The
// field's bytes are valid until the next call. After an error the decoder is
// of no more use.
func (d *Decoder) Next(f *Field) (ok bool, err error) {
	for len(d.block) > 0 {
		c := d.block[0]
		d.last = nil
		f.Sensitive, f.Checked = false, false
		switch {
		case c&0x80 != 0:
			err = d.indexed(f)
		case c&0xc0 == 0x40:
			err = d.literal(f, 6, true)
		case c&0xe0 == 0x20:
			if err = d.resize(); err != nil {
				return false, err
			}
			continue
		default:
			err = d.literal(f, 4, false)
			f.Sensitive = c&0x10 != 0
		}
		d.first = false
		return err == nil, err
	}
	d.block, d.scratch = nil, nil
	return false, nil
}

// integer reads an integer with an n-bit prefix (RFC 7541 5.1), below 2^28.
func (d *Decoder) integer(n uint) (int, bool) {
	b := d.block
	mask := 1<<n - 1
	v := int(b[0]) & mask
	if v < mask {
		d.block = b[1:]
		return v, true
	}
	for i, shift := 1, 0; i < len(b) && shift <= 21; i, shift = i+1, shift+7 {
		v += int(b[i]&0x7f) << shift
		if b[i] < 0x80 {
			d.block = b[i+1:]
			return v, true
		}
	}
	return 0, false
}

func (d *Decoder) resize() error {
	n, ok := d.integer(5)
	if !ok || !d.first || n > MaxTable {
		return errResize
	}
	d.t.setMax(n)
	return nil
}

func (d *Decoder) indexed(f *Field) error {
	i, ok := d.integer(7)
	if !ok {
		return errInteger
	}
	if err := d.entry(f, i); err != nil {
		return err
	}
	f.Checked = d.last != nil && d.last.checked
	return nil
}

// entry fills in name and value of a table index.
func (d *Decoder) entry(f *Field, i int) error {
	if i > 0 && i < len(staticFields) {
		f.Name, f.Value = staticFields[i].Name, staticFields[i].Value
		return nil
	}
	i -= len(staticFields)
	if i < 0 || i >= d.t.len() {
		return errIndex
	}
	ordinal := d.t.inserted - 1 - uint32(i)
	f.Name, f.Value = d.t.at(ordinal)
	d.last = d.t.entry(ordinal)
	return nil
}

// literal reads a literal with an n-bit name index.
func (d *Decoder) literal(f *Field, n uint, add bool) (err error) {
	i, ok := d.integer(n)
	if !ok {
		return errInteger
	}
	s := (*d.scratch)[:0]
	if i > 0 {
		if err = d.entry(f, i); err != nil {
			return err
		}
		d.last = nil
		if i >= len(staticFields) { // its entry may be evicted by this very field
			s = append(s, f.Name...)
			f.Name = s[:len(s):len(s)]
		}
	} else if f.Name, s, err = d.string(s); err != nil {
		return err
	}
	d.keep(s)
	if f.Value, s, err = d.string(s[len(s):]); err != nil {
		return err
	}
	d.keep(s)
	if add {
		d.last = d.t.add(f.Name, f.Value)
	}
	return nil
}

// keep leaves grown scratch for the fields to come.
func (d *Decoder) keep(s []byte) {
	if cap(s) > cap(*d.scratch) {
		*d.scratch = s[:0]
	}
}

// string reads a string; a Huffman-coded one is decoded behind s.
func (d *Decoder) string(s []byte) (v, rest []byte, err error) {
	if len(d.block) == 0 {
		return nil, s, errString
	}
	huffman := d.block[0]&0x80 != 0
	n, ok := d.integer(7)
	if !ok || n > len(d.block) {
		return nil, s, errString
	}
	raw := d.block[:n:n]
	d.block = d.block[n:]
	if !huffman {
		return raw, s, nil
	}
	k := len(s)
	if s, ok = appendHuffman(s, raw); !ok {
		return nil, s, errHuffman
	}
	return s[k:len(s):len(s)], s, nil
}
