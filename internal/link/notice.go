package link

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

// notices collects, each only once.
type notices struct {
	list []model.Notice
	seen map[string]bool
}

// coded adds notices of one code, as analyze prints it.
type coded struct {
	n    *notices
	code string
}

func (n *notices) code(c string) coded { return coded{n, c} }

func (c coded) add(s model.Severity, r model.Reason, o model.Origin, format string, args ...any) {
	n := c.n
	if n == nil {
		return
	}
	x := model.Notice{Severity: s, Reason: r, Origin: o, Text: fmt.Sprintf(format, args...), Code: c.code}
	key := o.ID() + "\x00" + string(r) + "\x00" + x.Text
	if n.seen == nil {
		n.seen = map[string]bool{}
	}
	if n.seen[key] {
		return
	}
	n.seen[key] = true
	n.list = append(n.list, x)
}

func (n *notices) sorted() []model.Notice {
	slices.SortStableFunc(n.list, func(a, b model.Notice) int {
		return cmp.Or(
			cmp.Compare(a.Origin.File, b.Origin.File),
			cmp.Compare(a.Origin.Line, b.Origin.Line),
			cmp.Compare(a.Origin.ID(), b.Origin.ID()),
			cmp.Compare(a.Text, b.Text),
		)
	})
	return n.list
}
