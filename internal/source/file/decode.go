package file

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/source"
)

// decoder turns YAML nodes into what encoding/json would give, with
// json.Number for numbers, and remembers where each value stands. The first
// thing that is wrong stops it.
type decoder struct {
	offset int // lines of the file before the document
	nodes  int
	opaque int // depth inside values that are text for people or programs

	err    error
	line   int
	pasted string // set when the text shows traces of a web page
}

func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	if d.err == nil {
		d.err, d.line = fmt.Errorf(format, args...), n.Line+d.offset
	}
}

func (d *decoder) value(n *yaml.Node, depth int) (any, place) {
	at := place{line: int32(n.Line + d.offset)}
	d.nodes++
	switch {
	case d.err != nil:
		return nil, at
	case depth > MaxDepth:
		d.fail(n, "nested more than %d levels deep", MaxDepth)
		return nil, at
	case d.nodes > MaxNodes:
		d.fail(n, "more than %d values in one document (aliases count as often as they are used)", MaxNodes)
		return nil, at
	}
	switch n.Kind {
	case yaml.AliasNode:
		return d.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		at.kids = make([]place, 0, len(n.Content))
		for _, c := range n.Content {
			v, pl := d.value(c, depth+1)
			out, at.kids = append(out, v), append(at.kids, pl)
		}
		return out, at
	case yaml.MappingNode:
		return d.mapping(n, depth)
	}
	return d.scalar(n), at
}

func (d *decoder) mapping(n *yaml.Node, depth int) (any, place) {
	at := place{line: int32(n.Line + d.offset)}
	out := make(map[string]any, len(n.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content) && d.err == nil; i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			d.fail(k, "a key must be text")
			break
		}
		if k.Value == "<<" && k.Style == 0 {
			merges = append(merges, v)
			continue
		}
		if _, dup := out[k.Value]; dup {
			d.fail(k, "key %q stands here a second time (first on line %d)", k.Value, at.Line(k.Value))
			break
		}
		if k.Style == 0 && d.opaque == 0 {
			if msg := pastedKey(k.Value); msg != "" {
				d.fail(k, "pasted")
				d.pasted = msg
				break
			}
		}
		if opaqueKey[k.Value] {
			d.opaque++
		}
		val, pl := d.value(v, depth+1)
		if opaqueKey[k.Value] {
			d.opaque--
		}
		pl.line = int32(k.Line + d.offset)
		out[k.Value] = val
		at.keys, at.kids = append(at.keys, k.Value), append(at.kids, pl)
	}
	for _, m := range merges {
		d.merge(m, out, &at, depth)
	}
	return out, at
}

// opaqueKey names fields whose text is not ours to judge.
var opaqueKey = map[string]bool{"annotations": true, "data": true, "stringData": true, "binaryData": true}

// merge adds the fields of a merge key ("<<") that are not there yet.
func (d *decoder) merge(n *yaml.Node, out map[string]any, at *place, depth int) {
	v, pl := d.value(n, depth+1)
	list, places := []any{v}, []place{pl}
	if l, ok := v.([]any); ok {
		list, places = l, pl.kids
	}
	for i, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			d.fail(n, "a merge key (<<) needs an object, not %s", source.Describe(v))
			return
		}
		for j, k := range places[i].keys {
			if _, there := out[k]; !there {
				out[k] = m[k]
				at.keys, at.kids = append(at.keys, k), append(at.kids, places[i].kids[j])
			}
		}
	}
}

// scalar resolves plain text as Kubernetes does: YAML 1.1 booleans (yes, on)
// but for the single letters, which are more often names; dates stay text.
func (d *decoder) scalar(n *yaml.Node) any {
	if n.Style == 0 {
		switch n.Value {
		case "yes", "Yes", "YES", "on", "On", "ON":
			return true
		case "no", "No", "NO", "off", "Off", "OFF":
			return false
		}
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int", "!!float":
		return d.number(n)
	case "!!binary":
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(n.Value), ""))
		if err != nil {
			d.fail(n, "!!binary is not base64")
		}
		return string(b)
	}
	if n.Style == 0 && d.opaque == 0 {
		if msg := pastedValue(n.Value); msg != "" {
			d.fail(n, "pasted")
			d.pasted = msg
		}
	}
	return n.Value
}

func (d *decoder) number(n *yaml.Node) any {
	var v any
	if err := n.Decode(&v); err != nil {
		d.fail(n, "is tagged as a number and is none")
		return nil
	}
	switch v := v.(type) {
	case int:
		return json.Number(strconv.Itoa(v))
	case int64:
		return json.Number(strconv.FormatInt(v, 10))
	case uint64:
		return json.Number(strconv.FormatUint(v, 10))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			d.fail(n, "neither .nan nor .inf is a number that JSON has")
			return nil
		}
		b, _ := json.Marshal(v)
		return json.Number(b)
	}
	d.fail(n, "is tagged as a number and is none")
	return nil
}

// clip bounds text that goes into a message.
func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
