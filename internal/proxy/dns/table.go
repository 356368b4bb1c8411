package dns

import (
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// table is the names of the mesh with their short forms. Immutable.
type table struct {
	names map[string][]netip.Addr
	wild  bool // some begin with "*."
}

// newTable adds to the full names the short ones that a cluster's search path
// would complete, for programs that do not look at it: "reviews" within the
// namespace, "reviews.shop" and "reviews.shop.svc" everywhere. A full name
// wins over a short one.
func newTable(t *conf.NameTable, namespace string) *table {
	out := &table{names: make(map[string][]netip.Addr, 3*len(t.Hosts))}
	for host, n := range t.Hosts {
		out.names[host] = n.Addresses
		out.wild = out.wild || strings.HasPrefix(host, "*.")
	}
	for _, n := range t.Hosts {
		if n.Short == "" || n.Namespace == "" {
			continue
		}
		short := []string{n.Short + "." + n.Namespace, n.Short + "." + n.Namespace + ".svc"}
		if n.Namespace == namespace {
			short = append(short, n.Short)
		}
		for _, s := range short {
			if _, full := t.Hosts[s]; !full {
				out.names[s] = n.Addresses
			}
		}
	}
	return out
}

// find returns the addresses of a name in lower case without a dot at the end.
func (t *table) find(name string) ([]netip.Addr, bool) {
	if a, ok := t.names[name]; ok {
		return a, true
	}
	if !t.wild {
		return nil, false
	}
	for rest := name; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			return nil, false
		}
		if a, ok := t.names["*."+after]; ok {
			return a, true
		}
		rest = after
	}
}
