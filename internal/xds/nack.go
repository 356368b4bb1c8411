package xds

import (
	"cmp"
	"slices"
	"strings"
)

// maxReason bounds the text of a refusal that is looked at and kept.
const maxReason = 32 << 10

// Rejection is a resource that a client did not accept.
type Rejection struct {
	Type    string // type URL
	Name    string // empty: the client did not say which, and nothing was new to it
	Version string
	Reason  string // the client's own text about this resource
}

// blame finds which of names a client's error text is about, and what it says
// of each. The text is free: Envoy writes "Error adding/updating listener(s)
// a: reason, b: reason", tulle-proxy a line "name: reason" each. A name counts
// only where it stands as a word followed by a colon, a quote, a comma or the
// end of a line; a bare number (route tables are called 80) must open a line
// or stand in quotes.
func blame(text string, names []string) map[string]string {
	type hit struct {
		at   int
		name string
	}
	var hits []hit
	for _, n := range names {
		if at := mention(text, n); at >= 0 {
			hits = append(hits, hit{at, n})
		}
	}
	if len(hits) == 0 {
		return nil
	}
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Compare(a.at, b.at) })
	out := map[string]string{}
	for i, h := range hits {
		end := len(text)
		if i+1 < len(hits) {
			end = hits[i+1].at
		}
		reason := strings.Trim(text[h.at+len(h.name):end], " \t\r\n:,;'\"")
		if reason == "" {
			reason = strings.TrimSpace(text)
		}
		out[h.name] = reason
	}
	return out
}

// mention is the place of the first mention of name in text, or -1.
func mention(text, name string) int {
	if name == "" {
		return -1
	}
	number := strings.Trim(name, "0123456789") == ""
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 {
			return -1
		}
		i += from
		from = i + 1
		before, after := byte('\n'), byte('\n')
		if i > 0 {
			before = text[i-1]
		}
		if e := i + len(name); e < len(text) {
			after = text[e]
		}
		quoted := (before == '\'' || before == '"') && after == before
		opens := before == '\n' || before == ' ' && !number
		closes := after == ':' || after == ',' || after == '\n' || after == '\r'
		if quoted || opens && closes {
			return i
		}
	}
}
