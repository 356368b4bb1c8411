package file

import (
	"slices"
	"strconv"
	"strings"
)

// place is the line of a value and of what is inside it. It is a
// source.Lines. Immutable once the file is read.
type place struct {
	line int32
	keys []string // of a mapping, beside kids
	kids []place
}

// Line implements source.Lines.
func (p *place) Line(path string) int {
	for path != "" {
		path = strings.TrimPrefix(path, ".")
		next, rest := p.step(path)
		if next == nil {
			break
		}
		p, path = next, rest
	}
	return int(p.line)
}

// step goes down one element of the path. Keys may themselves contain dots and
// brackets (label names, request.headers[x]): the longest that fits is meant.
func (p *place) step(path string) (*place, string) {
	if p.keys == nil {
		if !strings.HasPrefix(path, "[") {
			return nil, ""
		}
		end := strings.IndexByte(path, ']')
		if end < 0 {
			return nil, ""
		}
		i, err := strconv.Atoi(path[1:end])
		if err != nil || i < 0 || i >= len(p.kids) {
			return nil, ""
		}
		return &p.kids[i], path[end+1:]
	}
	best := -1
	for i, k := range p.keys {
		rest, ok := strings.CutPrefix(path, k)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') && (best < 0 || len(k) > len(p.keys[best])) {
			best = i
		}
	}
	if best < 0 {
		return nil, ""
	}
	return &p.kids[best], path[len(p.keys[best]):]
}

func (p *place) equal(o *place) bool {
	return p.line == o.line && slices.Equal(p.keys, o.keys) &&
		slices.EqualFunc(p.kids, o.kids, func(a, b place) bool { return a.equal(&b) })
}
