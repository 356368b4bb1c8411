package feed

import (
	"bytes"
	"fmt"
	"strings"
)

// keptLookups is the record of a state file that holds the names that are looked
// up, one per line: type, what came of it, the name, and what it leads to, quoted.
// They are known at once after a restart, and asked for in one request.
var keptLookups = ref{idx, "lookups"}

// soon has the file written without any resource having changed.
func (s *stateFile) soon() {
	if s != nil && !s.off {
		s.schedule()
	}
}

// save writes the record.
func (d *demand) save() []byte {
	var b bytes.Buffer
	for r, l := range d.asked {
		switch {
		case l.state == none:
			fmt.Fprintf(&b, "%d - %q\n", r.kind, r.name)
		case d.to[r] != "":
			fmt.Fprintf(&b, "%d + %q %q\n", r.kind, r.name, d.to[r])
		}
	}
	return b.Bytes()
}

// load reads the record. What it cannot read is not known any more.
func (d *demand) load(b []byte) {
	for line := range strings.Lines(string(b)) {
		var k kind
		var sign, name, to string
		n, _ := fmt.Sscanf(line, "%d %s %q %q", &k, &sign, &name, &to)
		if n < 3 || k < 0 || k >= kinds || !canAsk(k, name) || len(d.asked) >= maxNames {
			continue
		}
		l := &lookup{ref: ref{k, name}}
		switch {
		case sign == "-":
			d.asked[l.ref] = l
			d.answered(l, none)
		case sign == "+" && to != "":
			d.asked[l.ref] = l
			d.to[l.ref] = to
			d.names[ref{k, to}] = append(d.names[ref{k, to}], name)
			d.answered(l, found)
		}
		if s := d.f.stores[k]; s.asked != nil && d.asked[l.ref] == l {
			s.asked[name] = true
		}
	}
	d.c.Counts.Names.Store(int64(len(d.asked)))
	d.c.Counts.Found.Store(0)
	d.c.Counts.None.Store(0)
}
