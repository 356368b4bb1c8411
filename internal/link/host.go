package link

import (
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// fqdn completes a host as written in an object of namespace ns. Only a name
// without a dot is completed; addresses and "*" stay.
func (m *Mesh) fqdn(host, ns string) string {
	host = strings.ToLower(host)
	if host == "" || strings.Contains(host, ".") || strings.HasPrefix(host, "*") {
		return host
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	return host + "." + ns + ".svc." + m.Settings.ClusterDomain
}

func wild(h string) bool { return strings.HasPrefix(h, "*") }

// under reports whether every name that b stands for is one of a's. A wildcard
// "*.x" covers names below x, never x itself.
func under(a, b string) bool {
	if a == "*" || a == b {
		return true
	}
	if !wild(a) {
		return false
	}
	if wild(b) {
		return strings.HasSuffix(b[1:], a[1:])
	}
	return len(b) > len(a)-1 && strings.HasSuffix(b, a[1:])
}

// overlap is the narrower of two hosts when one covers the other, else "".
func overlap(a, b string) string {
	switch {
	case under(a, b):
		return b
	case under(b, a):
		return a
	}
	return ""
}

// older orders objects as Istio does: creation time, then name and namespace
// with a dot between.
func older(a, b model.Origin) bool {
	if !a.Created.Equal(b.Created) {
		return a.Created.Before(b.Created)
	}
	if a.Name == b.Name {
		return a.Namespace < b.Namespace
	}
	if strings.HasPrefix(a.Name, b.Name) || strings.HasPrefix(b.Name, a.Name) {
		return a.Name+"."+a.Namespace < b.Name+"."+b.Namespace
	}
	return a.Name < b.Name
}

// subset reports whether labels have all of want. An empty want matches all.
func subset(want, labels map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// export says which namespaces see an object.
type export struct {
	public bool
	own    string          // the object's namespace, when it is among those that see it
	names  map[string]bool // others
}

func newExport(list []string, own string) export {
	if len(list) == 0 {
		return export{public: true}
	}
	var e export
	for _, x := range list {
		switch x {
		case "*":
			return export{public: true}
		case "~":
		case ".", own:
			e.own = own
		default:
			if e.names == nil {
				e.names = map[string]bool{}
			}
			e.names[x] = true
		}
	}
	return e
}

// to reports whether ns sees the object.
func (e export) to(ns string) bool {
	return e.public || (e.own != "" && e.own == ns) || e.names[ns]
}

// rank orders what one namespace sees: its private objects, those exported to
// it by name, public ones.
func (e export) rank(ns string) int {
	switch {
	case e.public:
		return 2
	case e.own == ns && ns != "":
		return 0
	}
	return 1
}
