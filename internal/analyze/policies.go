package analyze

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// destinations reports TLS that checks no certificate.
func (a *analysis) destinations() {
	open := func(t *model.ClientTLS) bool {
		return t != nil && t.InsecureSkipVerify && (t.Mode == model.TLSSimple || t.Mode == model.TLSMutual)
	}
	for _, d := range a.Fragment.Destinations {
		policies := []model.TrafficPolicy{d.Policy}
		for _, s := range d.Subsets {
			policies = append(policies, s.Policy)
		}
		for _, p := range policies {
			if open(p.TLS) {
				a.add("IST0128", p.TLS.Origin, "whatever certificate %s shows is accepted (insecureSkipVerify)", d.Host)
			}
			for _, port := range p.Ports {
				if open(port.TLS) {
					a.add("IST0129", port.TLS.Origin, "whatever certificate port %d of %s shows is accepted (insecureSkipVerify)", port.Port, d.Host)
				}
			}
		}
	}
}

// gateways reports certificates that several Gateways share, and ports that
// the gateway's Service does not carry.
func (a *analysis) gateways() {
	byCredential := map[string][]model.Origin{}
	for _, g := range a.Fragment.Gateways {
		for i := range g.Servers {
			s := &g.Servers[i]
			a.servicePort(g, s)
			if s.TLS == nil {
				continue
			}
			for _, c := range s.TLS.CredentialNames {
				key := c + "|" + labelText(g.Selector)
				l := byCredential[key]
				if len(l) == 0 || l[len(l)-1].ID() != g.Origin.ID() {
					byCredential[key] = append(l, g.Origin)
				}
			}
		}
	}
	for key, l := range byCredential {
		if len(l) < 2 {
			continue
		}
		name, _, _ := strings.Cut(key, "|")
		for _, o := range l[1:] {
			a.add("IST0138", o, "certificate %s is that of %s too: a client that reuses its HTTP/2 connection may get 404 for the other's hosts", name, where(l[0]))
		}
	}
}

// servicePort reports a port that the Services in front of the gateway lack.
func (a *analysis) servicePort(g *model.Gateway, s *model.Server) {
	if len(g.Selector) == 0 {
		return
	}
	var found []*model.Service
	for _, svc := range a.Fragment.Services {
		if len(svc.Selector) == 0 || !a.fronts(svc, g) {
			continue
		}
		for _, p := range svc.Ports {
			if p.Number == s.Port.Number || p.Target == s.Port.Number {
				return
			}
		}
		found = append(found, svc)
	}
	if len(found) > 0 {
		a.add("IST0162", s.Origin, "no Service of the gateway (%s) has port %d", where(found[0].Origin), s.Port.Number)
	}
}

// fronts reports whether a Service selects a workload that the Gateway selects.
func (a *analysis) fronts(s *model.Service, g *model.Gateway) bool {
	for _, w := range a.Fragment.Workloads {
		if w.Namespace == s.Namespace && within(s.Selector, w.Labels) && within(g.Selector, w.Labels) {
			return true
		}
	}
	return false
}

func labelText(m map[string]string) string {
	var l []string
	for k, v := range m {
		l = append(l, k+"="+v)
	}
	slices.Sort(l)
	return strings.Join(l, ",")
}

// authorization reports a DENY for everything beside ALLOW policies, and
// principals as which nothing runs.
func (a *analysis) authorization() {
	for _, p := range a.Fragment.Authz {
		for i := range p.Rules {
			a.principals(p, &p.Rules[i])
		}
		if p.Action != model.Deny || p.DryRun || !slices.ContainsFunc(p.Rules, everything) {
			continue
		}
		for _, q := range a.Fragment.Authz {
			if q.Action == model.Allow && len(q.Rules) > 0 && a.covers(p, q) {
				a.add("TUL0205", p.Origin, "it denies every request, also those which %s allows: DENY comes first", where(q.Origin))
			}
		}
	}
}

func everything(r model.AuthzRule) bool { return len(r.From)+len(r.To)+len(r.When) == 0 }

// covers reports whether p applies wherever q does.
func (a *analysis) covers(p, q *model.AuthzPolicy) bool {
	if len(p.Gateways)+len(p.Services) > 0 || p.Namespace != a.Root && p.Namespace != q.Namespace {
		return false
	}
	return within(p.Selector, q.Selector)
}

// principals reports exact principals and accounts of this mesh as which no
// workload runs. Without workloads in the files nothing can be said.
func (a *analysis) principals(p *model.AuthzPolicy, r *model.AuthzRule) {
	told := map[string]bool{}
	for _, s := range r.From {
		var names []string
		for _, x := range s.Principals {
			parts := strings.Split(x, "/") // td/ns/NS/sa/NAME
			if len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa" && !strings.Contains(x, "*") && parts[0] == a.Mesh.Settings.TrustDomain {
				names = append(names, parts[2]+"/"+parts[4])
			}
		}
		for _, x := range s.Accounts {
			if strings.Contains(x, "/") {
				names = append(names, x)
			} else {
				names = append(names, p.Namespace+"/"+x)
			}
		}
		for _, n := range names {
			if ns, sa, _ := strings.Cut(n, "/"); !told[n] && !a.runsAs(ns, sa) {
				told[n] = true
				a.add("TUL0206", r.Origin, "no workload runs as service account %s of namespace %s%s", sa, ns, a.accounts(ns))
			}
		}
	}
}

// runsAs also says yes for namespaces of which no workload is known.
func (a *analysis) runsAs(ns, account string) bool {
	known := false
	for _, w := range a.Fragment.Workloads {
		if w.Namespace != ns {
			continue
		}
		known = true
		if w.Account == account {
			return true
		}
	}
	return !known
}

// accounts is a hint: those which the namespace's workloads use.
func (a *analysis) accounts(ns string) string {
	var l []string
	for _, w := range a.Fragment.Workloads {
		if w.Namespace == ns && !slices.Contains(l, w.Account) {
			l = append(l, w.Account)
		}
	}
	slices.Sort(l)
	if len(l) > 5 {
		l = append(l[:5], "...")
	}
	return "; there are " + strings.Join(l, ", ")
}

// selected checks kinds of which one acts per workload.
func (a *analysis) selected() {
	a.oneEach("networking.istio.io", "Sidecar", "IST0110", "IST0111")
	a.oneEach("telemetry.istio.io", "Telemetry", "IST0159", "IST0160")
	for _, k := range []struct{ group, kind string }{
		{"networking.istio.io", "Sidecar"}, {"telemetry.istio.io", "Telemetry"},
		{"security.istio.io", "RequestAuthentication"}, {"networking.istio.io", "EnvoyFilter"},
		{"networking.istio.io", "ProxyConfig"},
	} {
		a.each(k.group, k.kind, func(o *source.Object, r *raw) {
			if sel, ok := r.selector(); ok && len(a.Fragment.Workloads) > 0 && !a.selects(o.Namespace, sel) {
				a.add("IST0127", o.Origin("spec"), "its selector %s selects no workload of namespace %s", labelText(sel), o.Namespace)
			}
		})
	}
	a.each("telemetry.istio.io", "Telemetry", func(o *source.Object, r *raw) {
		for name, list := range map[string][]rawProviders{"tracing": r.Spec.Tracing, "metrics": r.Spec.Metrics, "accessLogging": r.Spec.AccessLogging} {
			for i, p := range list {
				if p.Providers != nil && len(*p.Providers) == 0 {
					a.add("IST0157", o.Origin("spec."+name+"["+itoa(i)+"].providers"), "an empty list of providers is ignored")
				}
			}
		}
	})
}

// oneEach reports objects of a kind that claim the same workloads.
func (a *analysis) oneEach(group, kind, same, bare string) {
	type object struct {
		o   *source.Object
		sel map[string]string
	}
	var list []object
	a.each(group, kind, func(o *source.Object, r *raw) {
		if len(r.Spec.TargetRefs) > 0 || len(r.Spec.TargetRef) > 0 {
			return
		}
		sel, _ := r.selector()
		list = append(list, object{o, sel})
	})
	for i, x := range list {
		for _, y := range list[:i] {
			if x.o.Namespace != y.o.Namespace || x.o.Name == y.o.Name || (len(x.sel) == 0) != (len(y.sel) == 0) {
				continue
			}
			if len(x.sel) == 0 {
				a.add(bare, x.o.Origin("spec"), "neither it nor %s has a selector: which one acts in namespace %s is not defined", where(y.o.Origin("")), x.o.Namespace)
				continue
			}
			for _, w := range a.Fragment.Workloads {
				if w.Namespace == x.o.Namespace && within(x.sel, w.Labels) && within(y.sel, w.Labels) {
					a.add(same, x.o.Origin("spec"), "it and %s both select %s %s/%s: which one acts is not defined", where(y.o.Origin("")), w.Origin.Kind, w.Namespace, w.Name)
					break
				}
			}
		}
	}
}

// filterTypes are the configuration types of Envoy's filters, by name.
var filterTypes = map[string]string{
	"envoy.filters.http.compressor":                 "envoy.extensions.filters.http.compressor.v3.Compressor",
	"envoy.filters.http.decompressor":               "envoy.extensions.filters.http.decompressor.v3.Decompressor",
	"envoy.filters.http.cache":                      "envoy.extensions.filters.http.cache.v3.CacheConfig",
	"envoy.filters.http.local_ratelimit":            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
	"envoy.filters.http.ratelimit":                  "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
	"envoy.filters.http.lua":                        "envoy.extensions.filters.http.lua.v3.Lua",
	"envoy.filters.http.ext_authz":                  "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
	"envoy.filters.http.jwt_authn":                  "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
	"envoy.filters.http.fault":                      "envoy.extensions.filters.http.fault.v3.HTTPFault",
	"envoy.filters.http.buffer":                     "envoy.extensions.filters.http.buffer.v3.Buffer",
	"envoy.filters.http.wasm":                       "envoy.extensions.filters.http.wasm.v3.Wasm",
	"envoy.filters.http.router":                     "envoy.extensions.filters.http.router.v3.Router",
	"envoy.filters.http.header_to_metadata":         "envoy.extensions.filters.http.header_to_metadata.v3.Config",
	"envoy.filters.http.adaptive_concurrency":       "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
	"envoy.filters.network.http_connection_manager": "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
	"envoy.filters.network.tcp_proxy":               "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
}

// envoyFilters checks patches for what no Envoy would do with them.
func (a *analysis) envoyFilters() {
	a.each("networking.istio.io", "EnvoyFilter", func(o *source.Object, r *raw) {
		for i, p := range r.Spec.ConfigPatches {
			at := o.Origin("spec.configPatches[" + itoa(i) + "]")
			if r.Spec.Priority == "" && slices.Contains([]string{"INSERT_BEFORE", "INSERT_AFTER", "REPLACE", "MERGE", "REMOVE"}, p.Patch.Operation) {
				if p.Match.Proxy.ProxyVersion != "" {
					a.add("IST0155", at, "%s depends on the order of filters and is bound to proxy version %s: set a priority", p.Patch.Operation, p.Match.Proxy.ProxyVersion)
				} else {
					a.add("IST0151", at, "what %s does depends on the order in which EnvoyFilters are applied: set a priority", p.Patch.Operation)
				}
			}
			filter := p.ApplyTo == "HTTP_FILTER" || p.ApplyTo == "NETWORK_FILTER"
			routes := p.ApplyTo == "ROUTE_CONFIGURATION" || p.ApplyTo == "HTTP_ROUTE"
			switch {
			case p.Patch.Operation == "REPLACE" && !filter:
				a.add("IST0152", at, "REPLACE does nothing on %s", p.ApplyTo)
			case p.Patch.Operation == "ADD" && routes:
				a.add("IST0153", at, "ADD does nothing on %s", p.ApplyTo)
			case p.Patch.Operation == "REMOVE" && routes:
				a.add("IST0154", at, "REMOVE does nothing on %s", p.ApplyTo)
			}
			v := p.Patch.Value
			typ := v.Typed.Type[strings.LastIndexByte(v.Typed.Type, '/')+1:]
			if want := filterTypes[v.Name]; want != "" && typ != "" && typ != want && typ != "udpa.type.v1.TypedStruct" && typ != "xds.type.v3.TypedStruct" {
				a.add("TUL0208", o.Origin("spec.configPatches["+itoa(i)+"].patch.value.typed_config"), "%s is not configured by %s but by %s: Envoy refuses it", v.Name, typ, want)
			}
		}
	})
}
