package model

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// line is one line of the text form: a word, arguments, attributes, an origin
// behind "#", and the indented lines below it. Arguments and attribute values
// are kept as written, with their quotes.
type line struct {
	number  int // in the text; 0 when writing
	word    string
	args    []string
	attrs   []attr
	comment []string
	noted   bool // has a comment
	below   []*line
	used    bool
}

type attr struct {
	key, value string
	used       bool
}

// form visits a line in one of two directions: it writes what the visitor
// points at, or fills it from the line. One visitor per type serves both, so
// that Text and Parse cannot differ.
type form struct {
	*line
	reading bool
	origin  Origin // of this line
	parent  Origin
	err     error
}

func (f *form) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("line %d: %s: %w", f.number, f.word, fmt.Errorf(format, args...))
	}
}

// quote writes s so that it stays one piece of a line; more lists characters
// that need quotes here beside the usual ones.
func quote(s, more string) string {
	plain := s != "" && utf8.ValidString(s)
	for _, r := range s {
		if r == ' ' || strings.ContainsRune("\"#,=\\", r) || strings.ContainsRune(more, r) || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}

// quotedEnd is the index behind the quoted string that starts at s[i].
func quotedEnd(s string, i int) (int, error) {
	for j := i + 1; j < len(s); j++ {
		switch s[j] {
		case '\\':
			j++
		case '"':
			return j + 1, nil
		}
	}
	return 0, errors.New("a quote is not closed")
}

// unquote reads a piece that may hold quoted parts.
func unquote(raw string) (string, error) {
	if !strings.Contains(raw, `"`) {
		return raw, nil
	}
	var b strings.Builder
	for i := 0; i < len(raw); {
		if raw[i] != '"' {
			b.WriteByte(raw[i])
			i++
			continue
		}
		end, err := quotedEnd(raw, i)
		if err != nil {
			return "", err
		}
		s, err := strconv.Unquote(raw[i:end])
		if err != nil {
			return "", fmt.Errorf("%s is not a quoted string", raw[i:end])
		}
		b.WriteString(s)
		i = end
	}
	return b.String(), nil
}

// index finds an unquoted byte; -1: none.
func index(raw string, sep byte) int {
	for i := 0; i < len(raw); i++ {
		if raw[i] == sep {
			return i
		}
		if raw[i] == '"' {
			end, err := quotedEnd(raw, i)
			if err != nil {
				return -1
			}
			i = end - 1
		}
	}
	return -1
}

func cut(raw string, sep byte) (before, after string, found bool) {
	if i := index(raw, sep); i >= 0 {
		return raw[:i], raw[i+1:], true
	}
	return raw, "", false
}

func split(raw string) []string {
	var out []string
	for {
		a, b, more := cut(raw, ',')
		out = append(out, a)
		if !more {
			return out
		}
		raw = b
	}
}

// tokens splits a line at blanks; the comment's tokens come apart.
func tokens(text string) (words, comment []string, noted bool, err error) {
	rest := strings.TrimSpace(text)
	for rest != "" {
		if rest[0] == '#' && !noted {
			noted = true
			rest = strings.TrimLeft(rest[1:], " ")
			continue
		}
		end := index(rest, ' ')
		if end < 0 {
			end = len(rest)
		}
		tok := rest[:end]
		if strings.Count(tok, `"`) > 0 {
			if _, err := unquote(tok); err != nil {
				return nil, nil, false, err
			}
		}
		if noted {
			comment = append(comment, tok)
		} else {
			words = append(words, tok)
		}
		rest = strings.TrimLeft(rest[end:], " ")
	}
	return words, comment, noted, nil
}

func (l *line) write(b *strings.Builder, depth int) {
	b.WriteString(strings.Repeat("  ", depth))
	b.WriteString(l.word)
	for _, a := range l.args {
		b.WriteString(" " + a)
	}
	for _, a := range l.attrs {
		b.WriteString(" " + a.key)
		if a.value != "" {
			b.WriteString("=" + a.value)
		}
	}
	if l.noted {
		b.WriteString("  # " + strings.Join(l.comment, " "))
	}
	b.WriteByte('\n')
	for _, c := range l.below {
		c.write(b, depth+1)
	}
}

// maxText bounds a text that is parsed, in bytes.
const maxText = 16 << 20

// maxWords bounds the words of one line.
const maxWords = 4096

// readLines reads the tree of lines.
func readLines(text string) ([]*line, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("text has %d bytes, more than %d", len(text), maxText)
	}
	root := &line{}
	stack := []*line{root}
	for i, t := range strings.Split(text, "\n") {
		trimmed := strings.TrimLeft(t, " ")
		if strings.TrimSpace(trimmed) == "" || trimmed[0] == '#' {
			continue
		}
		depth := (len(t) - len(trimmed)) / 2
		if (len(t)-len(trimmed))%2 != 0 || depth >= len(stack) {
			return nil, fmt.Errorf("line %d: wrong indentation; each level is two blanks", i+1)
		}
		words, comment, noted, err := tokens(t)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if len(words) == 0 { // a comment behind other blanks
			continue
		}
		if len(words) > maxWords {
			return nil, fmt.Errorf("line %d: %d words, more than %d", i+1, len(words), maxWords)
		}
		l := &line{number: i + 1, word: words[0], comment: comment, noted: noted}
		for _, w := range words[1:] {
			if k, v, ok := cut(w, '='); ok {
				l.attrs = append(l.attrs, attr{key: k, value: v})
			} else {
				l.args = append(l.args, w)
			}
		}
		stack = stack[:depth+1]
		p := stack[depth]
		p.below = append(p.below, l)
		stack = append(stack, l)
	}
	return root.below, nil
}

// take finds the next unused attribute of a key.
func (f *form) take(key string) (string, bool) {
	for i := range f.attrs {
		if a := &f.attrs[i]; a.key == key && !a.used {
			a.used = true
			return a.value, true
		}
	}
	return "", false
}

// put adds an attribute.
func (f *form) put(key, value string) { f.attrs = append(f.attrs, attr{key: key, value: value}) }

// leftover complains about what no visitor asked for.
func (f *form) leftover() {
	for _, a := range f.attrs {
		if !a.used {
			f.fail("unknown or repeated attribute %s", a.key)
		}
	}
	if len(f.args) > 0 {
		f.fail("unknown word %s", f.args[0])
	}
	for _, l := range f.below {
		if !l.used {
			f.fail("line %d: unknown line %q", l.number, l.word)
		}
	}
}

func (f *form) text(raw string) string {
	s, err := unquote(raw)
	if err != nil {
		f.fail("%v", err)
	}
	return s
}

// arg is a string in fixed position; empty ones are left out.
func (f *form) arg(p *string) {
	if !f.reading {
		if *p != "" {
			f.args = append(f.args, quote(*p, ""))
		}
		return
	}
	if len(f.args) > 0 {
		*p = f.text(f.args[0])
		f.args = f.args[1:]
	}
}

// need is a string in fixed position that is written even when empty, for
// lines that also have flags.
func (f *form) need(p *string) {
	if !f.reading {
		f.args = append(f.args, quote(*p, ""))
		return
	}
	if len(f.args) == 0 {
		f.fail("a word is missing")
		return
	}
	f.arg(p)
}

// ref is "namespace/name" in fixed position.
func (f *form) ref(ns, name *string) {
	if !f.reading {
		f.args = append(f.args, pairText(*ns, *name, '/'))
		return
	}
	if len(f.args) == 0 {
		f.fail("namespace/name is missing")
		return
	}
	a, b, ok := cut(f.args[0], '/')
	if !ok {
		f.fail("want namespace/name")
	}
	*ns, *name = f.text(a), f.text(b)
	f.args = f.args[1:]
}

func pairText(a, b string, sep byte) string {
	return quote(a, string(sep)) + string(sep) + quote(b, "")
}

// flag is a bare word.
func (f *form) flag(key string, p *bool) {
	if !f.reading {
		if *p {
			f.put(key, "")
		}
		return
	}
	if i := slices.Index(f.args, key); i >= 0 {
		*p = true
		f.args = slices.Delete(f.args, i, i+1)
	}
}

// value is key=text; show is asked whether there is anything to write.
func (f *form) value(key string, show bool, write func() string, read func(string) error) {
	if !f.reading {
		if show {
			f.put(key, write())
		}
		return
	}
	if raw, ok := f.take(key); ok {
		if err := read(f.text(raw)); err != nil {
			f.fail("%s: %v", key, err)
		}
	}
}

func (f *form) str(key string, p *string) {
	f.value(key, *p != "", func() string { return quote(*p, "") }, func(s string) error { *p = s; return nil })
}

func readUint[T ~uint8 | ~uint16 | ~uint32 | ~uint64](p *T) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || uint64(T(n)) != n {
			return fmt.Errorf("%q is not a number of the right size", s)
		}
		*p = T(n)
		return nil
	}
}

func uintAttr[T ~uint8 | ~uint16 | ~uint32 | ~uint64](f *form, key string, p *T) {
	f.value(key, *p != 0, func() string { return strconv.FormatUint(uint64(*p), 10) }, readUint(p))
}

// uintArg is a number in fixed position.
func uintArg[T ~uint16 | ~uint32](f *form, p *T) {
	s := strconv.FormatUint(uint64(*p), 10)
	f.arg(&s)
	if f.reading {
		if err := readUint(p)(s); err != nil {
			f.fail("%v", err)
		}
	}
}

func (f *form) int(key string, p *int) {
	f.value(key, *p != 0, func() string { return strconv.Itoa(*p) }, func(s string) (err error) {
		*p, err = strconv.Atoi(s)
		return err
	})
}

func (f *form) float(key string, p *float64) {
	f.value(key, *p != 0, func() string { return strconv.FormatFloat(*p, 'g', -1, 64) }, func(s string) (err error) {
		*p, err = strconv.ParseFloat(s, 64)
		return err
	})
}

func (f *form) duration(key string, p *time.Duration) {
	f.value(key, *p != 0, p.String, func(s string) (err error) {
		*p, err = time.ParseDuration(s)
		return err
	})
}

// optional is a pointer to a value that has a text of its own.
func optional[T any](f *form, key string, p **T, write func(T) string, read func(string) (T, error)) {
	f.value(key, *p != nil, func() string { return write(**p) }, func(s string) error {
		v, err := read(s)
		*p = &v
		return err
	})
}

func readUint32(s string) (uint32, error) {
	var n uint32
	err := readUint(&n)(s)
	return n, err
}

func writeUint32(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// enum is one of the names; the first is the zero value and is not written.
func enum[T ~uint8](f *form, key string, p *T, names []string) {
	f.value(key, *p != 0, func() string { return names[*p] }, readEnum(p, names))
}

func readEnum[T ~uint8](p *T, names []string) func(string) error {
	return func(s string) error {
		i := slices.Index(names, s)
		if i < 0 {
			return fmt.Errorf("%q is none of %s", s, strings.Join(names, ", "))
		}
		*p = T(i)
		return nil
	}
}

// enumArg is one of the names in fixed position.
func enumArg[T ~uint8](f *form, p *T, names []string) {
	var s string
	if !f.reading {
		s = names[*p]
	}
	f.arg(&s)
	if f.reading {
		if err := readEnum(p, names)(s); err != nil {
			f.fail("%v", err)
		}
	}
}

// list is key=a,b.
func list[T any](f *form, key string, p *[]T, write func(T) string, read func(string) (T, error)) {
	if !f.reading {
		if len(*p) > 0 {
			var t []string
			for _, x := range *p {
				t = append(t, write(x))
			}
			f.put(key, strings.Join(t, ","))
		}
		return
	}
	raw, ok := f.take(key)
	if !ok {
		return
	}
	for _, part := range split(raw) {
		x, err := read(part)
		if err != nil {
			f.fail("%s: %v", key, err)
			return
		}
		*p = append(*p, x)
	}
}

func (f *form) strs(key string, p *[]string) {
	list(f, key, p, func(s string) string { return quote(s, "") }, unquote)
}

func (f *form) ints(key string, p *[]int) {
	list(f, key, p, strconv.Itoa, strconv.Atoi)
}

// labels is key=a=b,c=d.
func (f *form) labels(key string, p *map[string]string) {
	pairs(f, key, p, func(s string) string { return quote(s, "") }, unquote)
}

func pairs[V any](f *form, key string, p *map[string]V, write func(V) string, read func(string) (V, error)) {
	type pair struct {
		k string
		v V
	}
	var l []pair
	for _, k := range slices.Sorted(maps.Keys(*p)) {
		l = append(l, pair{k, (*p)[k]})
	}
	list(f, key, &l, func(x pair) string { return quote(x.k, "") + "=" + write(x.v) }, func(raw string) (pair, error) {
		a, b, _ := cut(raw, '=')
		k, err := unquote(a)
		if err != nil {
			return pair{}, err
		}
		v, err := read(b)
		return pair{k, v}, err
	})
	if f.reading && len(l) > 0 {
		*p = map[string]V{}
		for _, x := range l {
			(*p)[x.k] = x.v
		}
	}
}

func (f *form) headers(key string, p *[]Header) {
	list(f, key, p, func(h Header) string { return quote(h.Name, "") + "=" + quote(h.Value, "") }, func(raw string) (Header, error) {
		a, b, _ := cut(raw, '=')
		n, err := unquote(a)
		if err != nil {
			return Header{}, err
		}
		v, err := unquote(b)
		return Header{n, v}, err
	})
}

func (f *form) addrPort(key string, p *netip.AddrPort) {
	f.value(key, p.IsValid(), p.String, func(s string) (err error) {
		*p, err = netip.ParseAddrPort(s)
		return err
	})
}

// note is the origin behind "#".
func (f *form) note(o *Origin) {
	if f.reading {
		f.readOrigin(o)
		f.origin = *o
		return
	}
	f.origin = *o
	f.writeOrigin(*o)
}

// writeOrigin is "from Kind ns/name field place created"; below a line of the
// same object only "field :line", and "." for the same field.
func (f *form) writeOrigin(o Origin) {
	if o == (Origin{}) {
		return
	}
	f.noted = true
	p := f.parent
	short := p != (Origin{}) && o.Field != "." && o.Field != "from"
	if short && o.Group == p.Group && o.Kind == p.Kind && o.Namespace == p.Namespace && o.Name == p.Name && o.File == p.File && o.Created.Equal(p.Created) {
		field := "."
		if o.Field != p.Field {
			field = quote(o.Field, ":")
		}
		f.comment = []string{field}
		if o.Line != p.Line {
			f.comment = append(f.comment, ":"+strconv.Itoa(o.Line))
		}
		return
	}
	object := quote(o.Name, "/")
	if o.Namespace != "" {
		object = pairText(o.Namespace, o.Name, '/')
	}
	f.comment = []string{"from", quote(o.Kind, ""), object}
	if o.Field != "" {
		f.comment = append(f.comment, quote(o.Field, ":"))
	}
	if o.File != "" || o.Line != 0 {
		f.comment = append(f.comment, quote(o.File, ":")+":"+strconv.Itoa(o.Line))
	}
	if o.Group != "" {
		f.comment = append(f.comment, "group="+quote(o.Group, ""))
	}
	if !o.Created.IsZero() {
		f.comment = append(f.comment, "created="+o.Created.UTC().Format(time.RFC3339Nano))
	}
}

func (f *form) readOrigin(o *Origin) {
	if !f.noted || len(f.comment) == 0 {
		return
	}
	c := f.comment
	if c[0] != "from" {
		*o = f.parent
		if c[0] != "." {
			o.Field = f.text(c[0])
		}
		if len(c) > 1 {
			n, err := strconv.Atoi(strings.TrimPrefix(c[1], ":"))
			if err != nil {
				f.fail("origin: %q is no line", c[1])
			}
			o.Line = n
		}
		return
	}
	if len(c) < 3 {
		f.fail("origin: want from Kind namespace/name")
		return
	}
	o.Kind = f.text(c[1])
	ns, name, ok := cut(c[2], '/')
	if !ok {
		ns, name = "", c[2]
	}
	o.Namespace, o.Name = f.text(ns), f.text(name)
	for _, t := range c[3:] {
		if when, ok := strings.CutPrefix(t, "created="); ok {
			at, err := time.Parse(time.RFC3339Nano, when)
			if err != nil {
				f.fail("origin: %v", err)
			}
			o.Created = at
			continue
		}
		if group, ok := strings.CutPrefix(t, "group="); ok {
			o.Group = f.text(group)
			continue
		}
		if file, num, ok := cut(t, ':'); ok {
			n, err := strconv.Atoi(num)
			if err != nil {
				f.fail("origin: %q is no line", num)
			}
			o.File, o.Line = f.text(file), n
			continue
		}
		o.Field = f.text(t)
	}
}

// child visits one line below.
func (f *form) child(l *line, visit func(*form)) {
	l.used = true
	c := &form{line: l, reading: f.reading, parent: f.origin}
	visit(c)
	if f.reading {
		c.leftover()
	}
	if f.err == nil {
		f.err = c.err
	}
}

// each visits the lines below that start with a word, one per element.
func each[T any](f *form, word string, p *[]T, visit func(*form, *T)) {
	if !f.reading {
		for i := range *p {
			l := &line{word: word}
			f.below = append(f.below, l)
			f.child(l, func(c *form) { visit(c, &(*p)[i]) })
		}
		return
	}
	for _, l := range f.below {
		if l.word == word && !l.used {
			var x T
			f.child(l, func(c *form) { visit(c, &x) })
			*p = append(*p, x)
		}
	}
}

// one visits at most one line below.
func one[T any](f *form, word string, p **T, visit func(*form, *T)) {
	if !f.reading {
		if *p != nil {
			l := &line{word: word}
			f.below = append(f.below, l)
			f.child(l, func(c *form) { visit(c, *p) })
		}
		return
	}
	for _, l := range f.below {
		if l.word == word && !l.used {
			var x T
			f.child(l, func(c *form) { visit(c, &x) })
			*p = &x
			return
		}
	}
}
