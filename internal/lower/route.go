package lower

import (
	"fmt"
	"maps"
	"strings"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tulle-mesh/tulle/internal/model"
)

// maxDirectBody is the longest body of a direct response, in bytes.
const maxDirectBody = 1 << 20

func (l *Lowering) planRoutes() {
	for _, t := range l.v.HTTP {
		l.planBytes(RouteType, t.Name, func() []byte { return l.routeTable(t) })
	}
}

// Hosts keeps virtual hosts that were written down, for tables of which most
// stays the same. Not for use by several goroutines at once.
type Hosts struct {
	before, now map[*model.VirtualHost]*writtenHost
}

// writtenHost is a virtual host as a field of its table, and what was said about
// it on the way.
type writtenHost struct {
	body    []byte
	origins map[string]model.Origin
	notices []model.Notice
}

// Keep makes l use the virtual hosts that its predecessor wrote down with the
// same Hosts; those that l does not have are forgotten.
func (l *Lowering) Keep(h *Hosts) {
	h.before, h.now = h.now, map[*model.VirtualHost]*writtenHost{}
	l.hosts = h
}

// routeTable is written field by field, the virtual hosts each by itself.
func (l *Lowering) routeTable(t *model.HTTPTable) []byte {
	out := encode(&routepb.RouteConfiguration{Name: t.Name})
	rest := &routepb.RouteConfiguration{ValidateClusters: no(), IgnorePortInHostMatching: !t.WithPort}
	taken := map[string]bool{}
	for _, h := range t.Hosts {
		domains := l.freeDomains(h, taken)
		if len(domains) == 0 {
			continue
		}
		out = append(out, l.written(h, domains, t.WithPort)...)
		for _, r := range h.Routes {
			if r.Direct != nil {
				rest.MaxDirectResponseBodySizeBytes = u32(maxDirectBody)
			}
		}
	}
	return append(out, encode(rest)...)
}

// written is a virtual host as a field of its table.
func (l *Lowering) written(h *model.VirtualHost, domains []string, proxy bool) []byte {
	write := func(l *Lowering) []byte {
		return encode(&routepb.RouteConfiguration{VirtualHosts: []*routepb.VirtualHost{l.virtualHost(h, domains, proxy)}})
	}
	if l.hosts == nil || len(domains) != len(h.Domains) {
		return write(l)
	}
	w := l.hosts.before[h]
	if w == nil {
		one := prepare(l.v)
		one.clusters = l.clusters
		w = &writtenHost{body: write(one)}
		w.origins, w.notices = one.origins, one.notices
	}
	l.hosts.now[h] = w
	maps.Copy(l.origins, w.origins)
	for _, n := range w.notices {
		l.notice(n.Severity, n.Reason, n.Origin, n.Text)
	}
	return w.body
}

// freeDomains drops domains that an earlier virtual host has: Envoy would
// refuse the whole table.
func (l *Lowering) freeDomains(h *model.VirtualHost, taken map[string]bool) []string {
	var out []string
	for _, d := range h.Domains {
		key := strings.ToLower(d)
		if d == "" || taken[key] {
			var o model.Origin
			if len(h.Routes) > 0 {
				o = h.Routes[0].Origin
			}
			l.notice(model.Warning, model.Conflict, o, fmt.Sprintf("domain %q of %s belongs to an earlier virtual host", d, h.Name))
			continue
		}
		taken[key] = true
		out = append(out, d)
	}
	return out
}

// virtualHost lowers one host. Those of the HTTP proxy of ports mode serve
// CONNECT too.
func (l *Lowering) virtualHost(h *model.VirtualHost, domains []string, proxy bool) *routepb.VirtualHost {
	out := &routepb.VirtualHost{
		Name:                       h.Name,
		Domains:                    domains,
		IncludeRequestAttemptCount: h.IncludeAttempt,
		Metadata:                   l.metadata(h.Origin),
	}
	if h.RequireTLS {
		out.RequireTls = routepb.VirtualHost_ALL
	}
	for _, r := range h.Routes {
		out.Routes = append(out.Routes, l.route(r))
	}
	if proxy {
		if r := l.connectRoute(h); r != nil {
			out.Routes = append(out.Routes, r)
		}
	}
	switch {
	case h.AllowAny && l.captured():
		out.Routes = append(out.Routes, &routepb.Route{
			Name:   "allow_any",
			Match:  everything(),
			Action: &routepb.Route_Route{Route: plainAction(l.elsewhere())},
		})
	case h.AllowAny || h.BlackHole:
		out.Routes = append(out.Routes, &routepb.Route{
			Name:   "block_all",
			Match:  everything(),
			Action: &routepb.Route_DirectResponse{DirectResponse: &routepb.DirectResponseAction{Status: 502}},
		})
	}
	return out
}

func everything() *routepb.RouteMatch {
	return &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: "/"}}
}

// plainAction forwards to one cluster without any limit.
func plainAction(cluster string) *routepb.RouteAction {
	a := &routepb.RouteAction{ClusterSpecifier: &routepb.RouteAction_Cluster{Cluster: cluster}}
	setTimeout(a, 0)
	return a
}

// connectRoute lets CONNECT through to where the host's last forwarding route
// leads, as bytes. Nil when the host forwards nothing.
func (l *Lowering) connectRoute(h *model.VirtualHost) *routepb.Route {
	for i := len(h.Routes) - 1; i >= 0; i-- {
		r := h.Routes[i]
		if len(r.Backends) == 0 {
			continue
		}
		a := l.destinations(r)
		setTimeout(a, 0)
		a.UpgradeConfigs = []*routepb.RouteAction_UpgradeConfig{{
			UpgradeType:   "CONNECT",
			ConnectConfig: &routepb.RouteAction_UpgradeConfig_ConnectConfig{},
		}}
		return &routepb.Route{
			Name:     "connect",
			Match:    &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_ConnectMatcher_{ConnectMatcher: &routepb.RouteMatch_ConnectMatcher{}}},
			Action:   &routepb.Route_Route{Route: a},
			Metadata: l.metadata(r.Origin),
		}
	}
	return nil
}

func (l *Lowering) route(r *model.Route) *routepb.Route {
	out := &routepb.Route{
		Name:       r.Name,
		Match:      routeMatch(&r.Match),
		Metadata:   l.metadata(r.Origin),
		StatPrefix: r.Match.StatPrefix,
	}
	if r.Operation != "" {
		out.Decorator = &routepb.Decorator{Operation: r.Operation}
	}
	if h := r.Headers; h != nil {
		req, resp := l.headerOps(h, r.Origin)
		out.RequestHeadersToAdd, out.RequestHeadersToRemove = req.add, req.remove
		out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = resp.add, resp.remove
	}
	out.TypedPerFilterConfig = l.perFilter(r)
	switch {
	case r.Redirect != nil:
		out.Action = &routepb.Route_Redirect{Redirect: l.redirect(r)}
	case r.Direct != nil:
		out.Action = &routepb.Route_DirectResponse{DirectResponse: l.direct(r)}
	default:
		out.Action = &routepb.Route_Route{Route: l.forward(r)}
		l.singleBackendHeaders(r, out)
	}
	return out
}

// singleBackendHeaders puts the header operations of a lone destination on the
// route, where Istio has them.
func (l *Lowering) singleBackendHeaders(r *model.Route, out *routepb.Route) {
	if len(r.Backends) != 1 || r.Backends[0].Headers == nil {
		return
	}
	b := r.Backends[0]
	req, resp := l.headerOps(b.Headers, originOr(b.Origin, r.Origin))
	out.RequestHeadersToAdd = append(out.RequestHeadersToAdd, req.add...)
	out.RequestHeadersToRemove = append(out.RequestHeadersToRemove, req.remove...)
	out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, resp.add...)
	out.ResponseHeadersToRemove = append(out.ResponseHeadersToRemove, resp.remove...)
}

func originOr(o, otherwise model.Origin) model.Origin {
	if o.Kind == "" {
		return otherwise
	}
	return o
}

func (l *Lowering) direct(r *model.Route) *routepb.DirectResponseAction {
	out := &routepb.DirectResponseAction{Status: l.status(r.Direct.Status, 500, r.Origin, "directResponse")}
	body := r.Direct.Body
	if len(body) > maxDirectBody {
		l.notice(model.Error, model.Invalid, r.Origin, fmt.Sprintf("directResponse body has %d bytes; more than %d are not sent", len(body), maxDirectBody))
		body = nil
	}
	if len(body) > 0 {
		out.Body = &corepb.DataSource{Specifier: &corepb.DataSource_InlineBytes{InlineBytes: body}}
	}
	return out
}

// status checks an HTTP status that Envoy must be able to send.
func (l *Lowering) status(code, otherwise int, o model.Origin, what string) uint32 {
	if code < 200 || code > 599 {
		l.notice(model.Error, model.Invalid, o, fmt.Sprintf("%s status %d is not between 200 and 599; %d is sent", what, code, otherwise))
		code = otherwise
	}
	return uint32(code)
}

var redirectCodes = map[int]routepb.RedirectAction_RedirectResponseCode{
	0:   routepb.RedirectAction_MOVED_PERMANENTLY,
	301: routepb.RedirectAction_MOVED_PERMANENTLY,
	302: routepb.RedirectAction_FOUND,
	303: routepb.RedirectAction_SEE_OTHER,
	307: routepb.RedirectAction_TEMPORARY_REDIRECT,
	308: routepb.RedirectAction_PERMANENT_REDIRECT,
}

func (l *Lowering) redirect(r *model.Route) *routepb.RedirectAction {
	d := r.Redirect
	code, ok := redirectCodes[d.Code]
	if !ok {
		l.notice(model.Error, model.Invalid, r.Origin, fmt.Sprintf("redirectCode %d is not 301, 302, 303, 307 or 308; 301 is sent", d.Code))
	}
	out := &routepb.RedirectAction{HostRedirect: d.Authority, ResponseCode: code}
	switch {
	case d.Path != "":
		out.PathRewriteSpecifier = &routepb.RedirectAction_PathRedirect{PathRedirect: d.Path}
	case d.PathPrefix != "":
		if m := r.Match.Path; m != nil && m.Kind == model.PathPrefix && d.PathPrefix == "/" {
			out.PathRewriteSpecifier = &routepb.RedirectAction_RegexRewrite{RegexRewrite: dropSegments(m.Value)}
		} else {
			out.PathRewriteSpecifier = &routepb.RedirectAction_PrefixRewrite{PrefixRewrite: d.PathPrefix}
		}
	}
	if d.Scheme != "" {
		out.SchemeRewriteSpecifier = &routepb.RedirectAction_SchemeRedirect{SchemeRedirect: d.Scheme}
	}
	out.PortRedirect = uint32(d.Port)
	return out
}
