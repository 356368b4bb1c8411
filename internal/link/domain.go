package link

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// names lists under which names a client of namespace ns may call a service:
// its host, the short forms that DNS would complete to it, and its addresses.
// shorts are the short forms among them.
func (m *Mesh) namesOf(s *model.Service, ns string) (all, shorts []string) {
	all = []string{s.Host}
	if !wild(s.Host) {
		all = append(all, s.Host+".")
	}
	shorts = m.shortNames(s.Host, ns)
	all = append(all, shorts...)
	if s.Resolution == model.Passthrough && s.Kubernetes {
		for _, n := range slices.Clone(all) {
			all = append(all, "*."+n)
		}
	}
	for _, p := range s.Addresses {
		if !p.IsSingleIP() {
			continue
		}
		a := p.Addr().String()
		if p.Addr().Is6() {
			a = "[" + a + "]"
		}
		all = append(all, a)
	}
	return all, shorts
}

// shortNames of a host of the cluster: "svc" only inside the same namespace.
func (m *Mesh) shortNames(host, ns string) []string {
	rest, ok := strings.CutSuffix(host, ".svc."+m.Settings.ClusterDomain)
	if !ok {
		return nil
	}
	name, own, ok := strings.Cut(rest, ".")
	if !ok || name == "" || strings.Contains(own, ".") || wild(host) {
		return nil
	}
	if own == ns {
		return []string{name, rest, rest + ".svc"}
	}
	return []string{rest, rest + ".svc"}
}

func hostPort(host string, port uint16) string { return host + ":" + strconv.Itoa(int(port)) }
