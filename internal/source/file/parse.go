package file

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Parse reads the documents of one text. name stands for the file in origins.
// Documents are read independently: a broken one leaves the others whole.
func Parse(name string, data []byte) ([]*source.Object, []model.Notice) {
	p := &parser{name: name}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(data) {
		line := 1 + bytes.Count(data[:validPrefix(data)], []byte("\n"))
		p.refuse(line, model.Unreadable, "not UTF-8 text; save the file as UTF-8")
		return nil, p.notices
	}
	docs := split(data)
	if len(docs) > MaxDocuments {
		p.refuse(docs[MaxDocuments].line, model.Unreadable, "more than %d documents in one file; the rest is not read", MaxDocuments)
		docs = docs[:MaxDocuments]
	}
	for _, d := range docs {
		p.document(d)
	}
	return p.objects, p.notices
}

// validPrefix is the length of the longest prefix that is UTF-8.
func validPrefix(b []byte) int {
	n := 0
	for n < len(b) {
		r, size := utf8.DecodeRune(b[n:])
		if r == utf8.RuneError && size <= 1 {
			break
		}
		n += size
	}
	return n
}

// parser collects the objects and notices of one file.
type parser struct {
	name    string
	objects []*source.Object
	notices []model.Notice
}

func (p *parser) refuse(line int, reason model.Reason, format string, args ...any) {
	p.notices = append(p.notices, model.Notice{
		Severity: model.Error, Reason: reason,
		Origin: model.Origin{File: p.name, Line: line}, Text: fmt.Sprintf(format, args...),
	})
}

// doc is the text of one document and the line of the file it starts on.
type doc struct {
	text []byte
	line int
}

// split cuts a stream at its document markers. A line that begins with "---"
// or "..." is a marker everywhere, inside block scalars too (YAML 1.2, 9.1.2),
// so that no parser is needed to find it. Empty documents are left out.
func split(data []byte) []doc {
	var out []doc
	cur := doc{line: 1}
	start, line := 0, 1
	flush := func(end int) {
		cur.text = data[start:end]
		if !blank(cur.text) {
			out = append(out, cur)
		}
	}
	for at := 0; at < len(data); {
		end := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		if rest, ok := marker(data[at:end]); ok {
			flush(at)
			start, cur = end-len(rest), doc{line: line}
		}
		at = end
		line++
	}
	flush(len(data))
	return out
}

// marker cuts a document marker from the front of a line.
func marker(line []byte) (rest []byte, ok bool) {
	if len(line) < 3 || string(line[:3]) != "---" && string(line[:3]) != "..." {
		return nil, false
	}
	rest = line[3:]
	if len(rest) > 0 && !bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0])) {
		return nil, false
	}
	return rest, true
}

// blank reports whether a document holds only comments and directives. A
// comment into which a whole object has run is none.
func blank(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '%' && (line[0] != '#' || gluedLine.Match(line)) {
			return false
		}
	}
	return true
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// document reads one document into objects or notices.
func (p *parser) document(d doc) {
	if len(d.text) > MaxDocument {
		p.refuse(d.line, model.Unreadable, "document larger than %d MiB", MaxDocument>>20)
		return
	}
	root, err := parseYAML(d.text)
	if err != nil {
		if at, ok := tabbed(d.text); ok && strings.Contains(err.Error(), "cannot start any token") {
			p.refuse(d.line+at, model.Unreadable, "indented with a tab; YAML wants spaces")
			return
		}
		if p.pasted(d) {
			return
		}
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		line := d.line + firstLine(d.text)
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			n, _ := strconv.Atoi(m[1])
			line = d.line + min(max(n, 1), 1+bytes.Count(d.text, []byte("\n"))) - 1
			text = strings.Replace(text, m[0], "", 1)
		}
		p.refuse(line, model.Unreadable, "not YAML: %s", text)
		return
	}
	if root == nil {
		p.pasted(d)
		return
	}
	dec := &decoder{offset: d.line - 1}
	value, places := dec.value(root, 0)
	if dec.err != nil {
		if dec.pasted != "" {
			p.refuse(dec.line, model.Pasted, "%s", dec.pasted)
			return
		}
		if p.pasted(d) {
			return
		}
		p.refuse(dec.line, model.Unreadable, "%v", dec.err)
		return
	}
	top, ok := value.(map[string]any)
	if !ok {
		if !p.pasted(d) {
			line := places.Line("")
			if value == nil { // what is empty stands after the end, for YAML
				line = d.line + firstLine(d.text)
			}
			p.refuse(line, model.Unreadable, "not an object: %s where apiVersion, kind and metadata should be", source.Describe(value))
		}
		return
	}
	p.object(d, top, &places, 0)
}

// parseYAML gives the root node of a document, nil when it is empty.
func parseYAML(text []byte) (root *yaml.Node, err error) {
	defer func() {
		// The library panics on some malformed input.
		if r := recover(); r != nil {
			root, err = nil, fmt.Errorf("cannot be parsed (%v)", r)
		}
	}()
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		return nil, err
	}
	if n.Kind != yaml.DocumentNode || len(n.Content) == 0 {
		return nil, nil
	}
	return n.Content[0], nil
}

// firstLine is the index of the first line that is neither empty nor a comment.
func firstLine(text []byte) int {
	i := 0
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return i
		}
		i++
	}
	return 0
}

// tabbed finds a line that is indented with a tab.
func tabbed(text []byte) (int, bool) {
	i := 0
	for line := range bytes.Lines(text) {
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if bytes.IndexByte(indent, '\t') >= 0 && len(bytes.TrimSpace(line)) > 0 {
			return i, true
		}
		i++
	}
	return 0, false
}
