package explain

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/cors"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/fault"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/ratelimit"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/rbac"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// request is one request inside one HTTP manager.
type request struct {
	*side
	r      *run
	in     *inflight
	http   *conf.HTTP
	remote netip.Addr // after x-forwarded-for
	tls    bool       // the connection was opened TLS
	path   route.Path
	rq     route.Request
}

// http runs an HTTP manager: path, route, filters, action. nil: the answer is
// final.
func (s *side) http(r *run, c *conf.Chain, in *inflight) *hop {
	q := &request{side: s, r: r, in: in, http: c.HTTP, tls: c.TLS != nil}
	if !q.normalize() {
		return nil
	}
	q.prepare()
	q.match()
	if !q.filters() {
		return nil
	}
	return q.act()
}

// reply ends the run with an answer of the proxy's own.
func (q *request) reply(outcome string, o telemetry.Outcome) {
	q.r.a.Outcome, q.r.a.Status = outcome, o.Status
	if o.Flag != 0 {
		q.r.a.ResponseFlags = o.Flag.String()
	}
}

func (q *request) normalize() bool {
	h := &q.r.head
	p, do := route.Normalize(nil, h.Path, q.http)
	switch do {
	case route.PathReject:
		q.step("path", "refused", fmt.Sprintf("the path %s is not accepted", h.Path))
		q.reply(Direct, telemetry.BadPath)
		return false
	case route.PathRedirect:
		q.step("path", "redirected", "escaped slashes are answered with the plain path")
		q.r.a.Outcome, q.r.a.Status, q.r.a.Redirect = Redirected, 307, string(p)
		return false
	}
	if string(p) != string(h.Path) {
		q.step("path", "normalized", fmt.Sprintf("%s becomes %s", h.Path, p))
		h.Path = h.Keep(p)
	}
	return true
}

// prepare does what a manager does before routing, as far as decisions see it.
func (q *request) prepare() {
	h := &q.r.head
	scheme := "http"
	if q.tls {
		scheme = "https"
	}
	q.remote = q.in.source.Addr()
	if q.http.UseRemoteAddress {
		h.Del("x-forwarded-proto")
	} else if v := h.Joined("x-forwarded-for"); v != nil {
		if a, err := netip.ParseAddr(strings.TrimSpace(string(v[strings.LastIndexByte(string(v), ',')+1:]))); err == nil {
			q.remote = a.Unmap()
		}
	}
	if h.Get("x-forwarded-proto") == nil {
		h.AddString("x-forwarded-proto", scheme)
	}
	h.Scheme = h.Get("x-forwarded-proto")
	route.StripPort(h, q.http.StripPort, q.in.destination.Port())
}

func (q *request) match() {
	t := q.http.Routes
	if t == nil {
		if t = q.snap.Routes[q.http.RouteName]; t == nil {
			q.step("virtual_host", "no_match", "the proxy has no route table "+q.http.RouteName)
			return
		}
	}
	h := &q.r.head
	var w why.Why
	defer q.tell(&w, false)
	q.path.Table = t
	v := route.Host(t, h.Authority, &w)
	if v == nil {
		return
	}
	q.path.Host, q.r.a.VirtualHost = v, v.Name
	q.rq = route.Request{Head: h, Source: q.in.source, Remote: netip.AddrPortFrom(q.remote, q.in.source.Port()), Local: q.in.destination, SNI: q.in.sni}
	if len(q.in.principals) > 0 {
		q.rq.PeerURI = q.in.principals[0]
	}
	if q.path.Route = route.Match(v, &q.rq, &w); q.path.Route != nil {
		q.r.a.Route = q.path.Route.Name
		q.rq.RouteName = q.path.Route.Name
	}
}

// filters runs the listener's filters in their order.
func (q *request) filters() bool {
	for i := range q.http.Filters {
		f := &q.http.Filters[i]
		switch {
		case f.CORS:
			if q.cors() {
				return false
			}
		case f.Limit != nil:
			q.limited(f)
		case f.MaxBody > 0:
			q.step("body", "bounded", fmt.Sprintf("a body of more than %d bytes gets 413", f.MaxBody))
		case f.Compress:
			q.compressed()
		case f.HasFault:
			if q.fault(f.Fault) {
				return false
			}
		default:
			in := rbac.Input{Head: &q.r.head, Source: q.in.source, Remote: netip.AddrPortFrom(q.remote, 0), Destination: q.in.destination,
				ServerName: q.in.sni, TLS: q.tls, Mutual: q.in.mutual, Principals: q.in.principals}
			if p := q.override(f); p != nil && !q.authorized(q.r, p, &in) {
				return false
			}
		}
	}
	return true
}

// limited tells of a rate limit that counts the request. Whether it comes too
// soon depends on the others.
func (q *request) limited(f *conf.Filter) {
	in := ratelimit.Input{Head: &q.r.head, Remote: q.remote}
	if len(q.in.principals) > 0 {
		in.Principal = q.in.principals[0]
	}
	if v := ratelimit.New(f.Limit).Take(f.Limit, &in, 0); v.By != nil {
		q.step("rate_limit", "counted", fmt.Sprintf("%s lets in %d per %v, %d at once, of such requests; others get %d", f.Name, v.By.Fill, v.By.Interval, v.By.Size, f.Limit.Status))
	}
}

// compressed tells which coding the answer may have. Whether it has it depends
// on its type and length.
func (q *request) compressed() {
	var able []string
	for _, c := range q.http.Compressors {
		able = append(able, c.Encoding)
	}
	q.step("compress", "offered", fmt.Sprintf("answers can be compressed by %s; the client accepts %q", strings.Join(able, ", "), q.r.head.Joined("accept-encoding")))
}

// override is a filter's policy or what route or virtual host put in its place.
func (q *request) override(f *conf.Filter) *conf.RBAC {
	if rt := q.path.Route; rt != nil {
		if o, ok := rt.RBAC[f.Name]; ok {
			return o.RBAC
		}
	}
	if v := q.path.Host; v != nil {
		if o, ok := v.RBAC[f.Name]; ok {
			return o.RBAC
		}
	}
	return f.RBAC
}

func (q *request) cors() bool {
	var p *conf.CORS
	if rt := q.path.Route; rt != nil && rt.Forward != nil {
		if p = rt.CORS; p == nil {
			p = q.path.Host.CORS
		}
	}
	if p == nil || !cors.Preflight(&q.r.head) {
		return false
	}
	ok := cors.Allowed(p, &q.r.head)
	if !ok && p.ForwardUnmatched {
		q.step("cors", "passed", "a preflight of an origin that is not allowed here is passed on")
		return false
	}
	verdict := map[bool]string{true: "allowed", false: "not_allowed"}[ok]
	q.stepAt("cors", verdict, "the preflight is answered here", q.routeOrigin())
	q.r.a.Outcome, q.r.a.Status = Direct, 200
	return true
}

// fault tells of injected faults; only an abort of all requests is the outcome.
func (q *request) fault(f *conf.Fault) bool {
	if rt := q.path.Route; rt != nil && rt.Fault != nil {
		f = rt.Fault
	}
	if f == nil {
		return false
	}
	const all = 1e6
	if f.Delay > 0 && f.DelayFraction > 0 {
		q.stepAt("fault", "delayed", fmt.Sprintf("%g %% of requests wait %v first", float64(f.DelayFraction)/1e4, f.Delay), q.routeOrigin())
	}
	if f.AbortFraction == 0 || f.AbortHTTP == 0 && f.AbortGRPC < 0 {
		return false
	}
	certain := *f
	certain.AbortFraction = all
	d := fault.Decide(&certain, 0)
	o := telemetry.Aborted(d.Status, d.GRPC)
	if f.AbortFraction < all {
		q.stepAt("fault", "possible", fmt.Sprintf("%g %% of requests are answered %d instead", float64(f.AbortFraction)/1e4, o.Status), q.routeOrigin())
		return false
	}
	q.stepAt("fault", "aborted", fmt.Sprintf("every request is answered %d", o.Status), q.routeOrigin())
	q.reply(Fault, o)
	return true
}

func (q *request) act() *hop {
	a, rt, h := q.r.a, q.path.Route, &q.r.head
	switch {
	case q.path.Host != nil && route.NeedsTLS(q.path.Host, h):
		a.Outcome, a.Status, a.Redirect = Redirected, 301, string(route.TLSLocation(nil, h))
		o := q.origin(q.path.Host.Origin)
		if o.Kind == "" {
			o = q.entry
		}
		q.stepAt("route", "redirected", "this host speaks https only", o)
	case rt == nil:
		q.reply(NoRoute, telemetry.NoRoute)
	case rt.Redirect != nil:
		a.Outcome, a.Status, a.Redirect = Redirected, rt.Redirect.Code, string(route.Location(nil, &q.path, h))
	case rt.Direct != nil:
		a.Outcome, a.Status = Direct, rt.Direct.Status
		if q.path.Host.Name == "block_all" {
			a.Outcome = BlackHole
			q.step("route", "blocked", "outbound traffic to hosts outside the mesh is not allowed")
		}
	case rt.Forward != nil:
		return q.forward(rt.Forward)
	}
	return nil
}

func (q *request) forward(f *conf.Forward) *hop {
	a, h := q.r.a, &q.r.head
	retry := route.RetryPolicy(q.path.Host, f)
	t := route.TimeoutsFor(f, retry, h)
	a.Timeout = duration(t.Total)
	a.Retries = Retries{}
	if retry != nil {
		a.Retries = Retries{Attempts: retry.Attempts, On: route.RetryWords(retry.On), Codes: retry.Codes, PerTryTimeout: duration(t.PerTry)}
	}
	clusters := f.Clusters
	if f.ClusterHeader != "" {
		clusters = []conf.WeightedCluster{{Name: string(h.Get(f.ClusterHeader)), Weight: 100}}
	}
	if len(clusters) > 1 {
		q.step("route", "weighted", "the request goes to one of the clusters by weight; header changes shown are the first one's")
	}
	q.path.Cluster = &clusters[0]
	for _, m := range f.Mirrors {
		q.stepAt("mirror", "copied", fmt.Sprintf("%g %% of requests are copied to %s", float64(m.Fraction)/1e4, m.Cluster), q.routeOrigin())
	}
	route.TimeoutHeaders(f, t, h)
	route.Rewrite(&q.path, &q.rq)
	if clusters[0].Name == "PassthroughCluster" {
		a.Outcome = Passthrough
		q.destinations(q.r, clusters)
		q.note(f)
		return nil
	}
	q.note(f)
	return &hop{clusters: clusters, http: true, origin: q.routeOrigin()}
}

// note keeps what leaves this proxy.
func (q *request) note(f *conf.Forward) {
	h := &q.r.head
	if f.AutoHost {
		q.step("rewrite", "host", "the authority becomes the name of the endpoint that is picked")
	}
	out := Request{Authority: string(h.Authority), Path: string(h.Path), Headers: map[string]string{}}
	for i := range h.Fields {
		name := string(h.Fields[i].Name)
		out.Headers[name] = string(h.Joined(name))
	}
	q.r.a.Request = out
}

func (q *request) routeOrigin() (o originT) {
	if rt := q.path.Route; rt != nil {
		return q.origin(rt.Origin)
	}
	return o
}

func duration(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return d.String()
}

// destinations notes the clusters with their live endpoints.
func (s *side) destinations(r *run, cs []conf.WeightedCluster) {
	r.a.Destinations = []Destination{} // an answer that is kept may have the old list
	for i := range cs {
		d := Destination{Cluster: cs[i].Name, Weight: cs[i].Weight, TLS: "none"}
		if len(cs) == 1 {
			d.Weight = 100
		}
		if h := s.clusters.Get(cs[i].Name); h != nil {
			d.Endpoints, d.TLS = available(h), tlsOf(h)
			if w := r.template(s, h.Conf()); w != nil && len(h.Endpoints()) == 0 && len(h.Conf().TLSMatches) > 0 {
				d.TLS = tlsKind(r.auto(r.stand(s, h.Conf(), w)))
			}
		}
		r.a.Destinations = append(r.a.Destinations, d)
	}
}

// available counts endpoints; names that the DNS would resolve count as one.
func available(h *cluster.Handle) int {
	n := h.Available()
	c := h.Conf()
	if (c.Type == conf.ClusterDNS || c.Type == conf.ClusterLogicalDNS) && c.Endpoints != nil {
		for _, l := range c.Endpoints.Localities {
			for i := range l.Endpoints {
				if l.Endpoints[i].Host != "" && !literal(l.Endpoints[i].Host) {
					n++
				}
			}
		}
	}
	return n
}

func literal(host string) bool { _, err := netip.ParseAddr(host); return err == nil }

// tlsOf names the TLS that a cluster's endpoints get; without endpoints, what
// they would get.
func tlsOf(h *cluster.Handle) string {
	seen := map[string]bool{}
	var out []string
	add := func(t *conf.ClientTLS) {
		if k := tlsKind(t); !seen[k] {
			seen[k] = true
			out = append(out, k)
		}
	}
	for _, e := range h.Endpoints() {
		add(e.TLS)
	}
	if len(out) == 0 {
		c := h.Conf()
		if len(c.TLSMatches) > 0 {
			add(c.TLSMatches[0].TLS)
		} else {
			add(c.TLS)
		}
	}
	return strings.Join(out, ",")
}

func tlsKind(t *conf.ClientTLS) string {
	switch {
	case t == nil:
		return "none"
	case t.Mesh:
		return "istio_mutual"
	case t.Certificate != "":
		return "mutual"
	}
	return "simple"
}
