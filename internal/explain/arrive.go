package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

type originT = model.Origin

// target is the workload that a request arrives at.
type target struct {
	workload *model.Workload
	addr     netip.AddrPort
	cluster  *conf.Cluster
	tls      *conf.ClientTLS // that the caller's proxy speaks to it
}

// arrive checks the destinations, then runs the inbound side of one of them.
func (r *run) arrive(s *side, to *hop) error {
	r.a.Outcome = Routed
	s.destinations(r, to.clusters)
	r.reachable(s, to)
	if t := r.choose(s, to); t != nil {
		return r.inbound(s, t, to.http)
	}
	return nil
}

// passed runs the destination's side of a call that the caller's proxy lets
// through to an address which is a workload's own: as plain text, whatever the
// workload asks for.
func (r *run) passed(s *side, to netip.AddrPort) error {
	if r.a.Outcome != Passthrough {
		return nil
	}
	for _, w := range r.c.Fragment.Workloads {
		if workloadAddr(w) == to.Addr() || slices.Contains(w.More, to.Addr().String()) {
			s.step("tls", "chosen", fmt.Sprintf("%s is the address of workload %s/%s, and what is passed through is left as it is: plain text", to.Addr(), w.Namespace, w.Name))
			return r.inbound(s, &target{workload: w, addr: to, cluster: &conf.Cluster{Name: "PassthroughCluster"}}, r.a.Request.Path != "")
		}
	}
	return nil
}

// reachable tells of clusters that are missing or empty; when all are, that is
// what the client sees.
func (r *run) reachable(s *side, to *hop) {
	var last telemetry.Outcome
	bad := 0
	for i := range to.clusters {
		c := &to.clusters[i]
		h := s.clusters.Get(c.Name)
		switch {
		case h == nil:
			o := s.origin(c.Origin)
			if o.Kind == "" {
				o = to.origin
			}
			s.stepAt("cluster", "no_match", c.Name+" is not in the mesh: "+missing(s.view, c.Name), o)
			last = telemetry.NoCluster(0)
		case h.Conf().Type != conf.ClusterOriginalDst && available(h) == 0 && r.template(s, h.Conf()) == nil:
			s.stepAt("endpoint", "no_healthy", fmt.Sprintf("%s has no endpoint that may be picked: %s", c.Name, whichEndpoints(s, c.Name)), s.origin(lastOf(h.Conf().Origin)))
			last = telemetry.NoHealthy
		default:
			continue
		}
		if c.Weight > 0 || len(to.clusters) == 1 {
			bad++
		}
	}
	if bad > 0 && bad == weighty(to.clusters) {
		r.a.ResponseFlags = last.Flag.String()
		if to.http {
			r.a.Status = last.Status
		}
	}
}

// missing says which part of a cluster's name leads nowhere: the host, the
// port, or the subset.
func missing(v *model.View, name string) string {
	parts := strings.Split(name, "|")
	if len(parts) != 4 {
		return "no service is meant by this name"
	}
	port, subset, host := parts[1], parts[2], parts[3]
	var svc *model.Service
	var ports, subsets []string
	for _, c := range v.Clusters {
		if c.Service == nil || c.Service.Host != host {
			continue
		}
		svc = c.Service
		if n := fmt.Sprint(c.Port.Number); !slices.Contains(ports, n) {
			ports = append(ports, n)
		}
		if fmt.Sprint(c.Port.Number) == port && c.Subset != "" {
			subsets = append(subsets, c.Subset)
		}
	}
	caller := v.Client.Namespace
	switch {
	case svc == nil && v.Client.Role == model.Sidecar:
		return fmt.Sprintf("there is no service %s that namespace %s may see", host, caller)
	case svc == nil:
		return fmt.Sprintf("no service that namespace %s may see has host %s and port %s", caller, host, port)
	case !slices.Contains(ports, port):
		return fmt.Sprintf("%s has no port %s; it has %s", host, port, strings.Join(ports, ", "))
	case len(subsets) == 0:
		return fmt.Sprintf("no DestinationRule that namespace %s uses for %s defines subset %s, or any", caller, host, subset)
	}
	return fmt.Sprintf("no DestinationRule that namespace %s uses for %s defines subset %s; there are %s", caller, host, subset, strings.Join(subsets, ", "))
}

func weighty(cs []conf.WeightedCluster) int {
	if len(cs) == 1 {
		return 1
	}
	n := 0
	for i := range cs {
		if cs[i].Weight > 0 {
			n++
		}
	}
	return n
}

func lastOf(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return ids[len(ids)-1]
}

// modelCluster is the cluster in the model.
func modelCluster(s *side, name string) *model.Cluster {
	i := slices.IndexFunc(s.view.Clusters, func(c *model.Cluster) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return s.view.Clusters[i]
}

// whichEndpoints says what was looked for.
func whichEndpoints(s *side, name string) string {
	c := modelCluster(s, name)
	switch {
	case c == nil || c.Service == nil:
		return "it lists none"
	case len(c.Endpoints) > 0:
		return fmt.Sprintf("none of its %d endpoints is ready", len(c.Endpoints))
	case len(c.Labels) > 0:
		return fmt.Sprintf("no workload of %s has the labels %s of subset %s", c.Service.Host, labels(c.Labels), c.Subset)
	case len(c.Service.Selector) > 0:
		return fmt.Sprintf("no workload in namespace %s has the labels %s", c.Service.Namespace, labels(c.Service.Selector))
	}
	return "its service has no selector and lists none"
}

func labels(m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// choose finds the workload whose inbound side is explained: --to, else the
// first endpoint of the first destination, else a Deployment that would be it.
func (r *run) choose(s *side, to *hop) *target {
	want := r.q.To
	var first *target
	for i := range to.clusters {
		h := s.clusters.Get(to.clusters[i].Name)
		if h == nil || to.clusters[i].Weight == 0 && len(to.clusters) > 1 {
			continue
		}
		for _, t := range r.candidates(s, h) {
			if want == "" || t.workload.Namespace+"/"+t.workload.Name == want || t.workload.Owner != "" && t.workload.Namespace+"/"+t.workload.Owner == want {
				return t
			}
			if first == nil {
				first = t
			}
			if t.workload.Gateway { // it may lead there
				return t
			}
		}
		if first == nil {
			first = &target{cluster: h.Conf()}
		}
	}
	if want == "" || first == nil {
		return nil
	}
	w := r.workload(want)
	s.step("endpoint", "chosen", want+" is no endpoint of the destinations; its inbound policies are asked all the same")
	t := &target{workload: w, cluster: first.cluster, tls: first.tls, addr: first.addr}
	t.addr = netip.AddrPortFrom(workloadAddr(w), r.targetPort(s, first.cluster, w))
	if t.tls == nil {
		t.tls = r.auto(t)
	}
	return t
}

// candidates of a cluster: its endpoints that are workloads, or the Deployment
// that stands for them.
func (r *run) candidates(s *side, h *cluster.Handle) []*target {
	var out []*target
	mc := modelCluster(s, h.Name)
	for _, e := range h.Endpoints() {
		if mc == nil {
			break
		}
		i := slices.IndexFunc(mc.Endpoints, func(m model.ClusterEndpoint) bool {
			a, err := netip.ParseAddr(m.Address)
			return err == nil && netip.AddrPortFrom(a.Unmap(), m.Port) == e.Addr
		})
		if i < 0 {
			continue
		}
		if w := r.workload(mc.Endpoints[i].Workload); w != nil {
			out = append(out, &target{workload: w, addr: e.Addr, cluster: h.Conf(), tls: e.TLS})
		}
	}
	if w := r.template(s, h.Conf()); w != nil && len(out) == 0 {
		t := r.stand(s, h.Conf(), w)
		if tls := r.auto(t); tls != nil {
			t.tls = tls
		}
		out = append(out, t)
	}
	return out
}

// stand makes a workload that is no endpoint yet a target.
func (r *run) stand(s *side, c *conf.Cluster, w *model.Workload) *target {
	return &target{workload: w, addr: netip.AddrPortFrom(workloadAddr(w), r.targetPort(s, c, w)), cluster: c, tls: c.TLS}
}

// auto is the mesh mTLS that the caller's proxy would speak to a workload that
// is no endpoint yet; nil: none.
func (r *run) auto(t *target) *conf.ClientTLS {
	if !t.workload.MTLS || len(t.cluster.TLSMatches) == 0 || r.c.Mesh.PortMTLS(t.workload, t.addr.Port()) == model.MTLSDisable {
		return nil
	}
	return t.cluster.TLSMatches[0].TLS
}

func (r *run) workload(name string) *model.Workload {
	var found *model.Workload
	for _, w := range r.c.Fragment.Workloads {
		if w.Namespace+"/"+w.Name == name && (found == nil || found.Template) {
			found = w
		}
	}
	return found
}

// template is a Deployment, or a Pod without an address, that the cluster's
// service and subset select: with files alone, nothing runs yet.
func (r *run) template(s *side, c *conf.Cluster) *model.Workload {
	mc := modelCluster(s, c.Name)
	if mc == nil || mc.Service == nil || len(mc.Service.Selector) == 0 {
		return nil
	}
	for _, w := range r.c.Fragment.Workloads {
		if (w.Template || w.Address == "") && w.Namespace == mc.Service.Namespace && has(w.Labels, mc.Service.Selector) && has(w.Labels, mc.Labels) {
			return w
		}
	}
	return nil
}

func has(labels, want map[string]string) bool {
	for k, v := range want {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func workloadAddr(w *model.Workload) netip.Addr {
	if a, err := netip.ParseAddr(w.Address); err == nil {
		return a.Unmap()
	}
	return nobody
}

// targetPort of a workload behind a cluster.
func (r *run) targetPort(s *side, c *conf.Cluster, w *model.Workload) uint16 {
	mc := modelCluster(s, c.Name)
	if mc == nil {
		return r.port
	}
	switch p := mc.Port; {
	case p.Target != 0:
		return p.Target
	case p.TargetName != "" && w.Ports[p.TargetName] != 0:
		return w.Ports[p.TargetName]
	default:
		return p.Number
	}
}

// inbound runs the destination's proxy.
func (r *run) inbound(caller *side, t *target, http bool) error {
	name := t.workload.Namespace + "/" + t.workload.Name
	cl, err := r.c.Workload(name)
	if err != nil {
		return err
	}
	cl.Features = []string{lower.FeatureBridge}
	caller.speaks(t)
	if t.workload.Gateway {
		return r.onward(t, cl, name, http)
	}
	if !t.workload.MTLS {
		step := Step{Proxy: name, Stage: "inbound", Verdict: "reached", Why: "no sidecar of the mesh is in front of this workload"}
		if t.tls != nil && t.tls.Mesh {
			step.Verdict, step.Why = "refused", step.Why+", nobody there answers mesh mTLS"
			r.tlsError(&inflight{tls: true}, http)
		}
		r.a.Steps = append(r.a.Steps, step)
		return nil
	}
	s := newSide(name, r.c.Mesh.View(cl), r.a)
	defer s.close()
	if t.workload.Template || t.workload.Address == "" {
		s.stepAt("endpoint", "assumed", "no running copy is known; the description of the workload stands for one", t.workload.Origin)
	}
	in := inflight{destination: t.addr, source: netip.AddrPortFrom(r.source, 0)}
	if !r.secure(s, t, &in, cl) {
		return nil
	}
	l := s.snap.Listeners["virtualInbound"]
	if l == nil {
		s.step("listener", "no_match", "the workload's proxy has no inbound listener")
		return nil
	}
	before := *r.a
	s.admit(r, l, &in, http)
	r.a.keep(&before)
	if r.a.Outcome == "" {
		r.a.Outcome = before.Outcome
	}
	if r.a.Outcome == Routed || r.a.Outcome == Passthrough {
		r.a.Outcome, r.a.Status, r.a.ResponseFlags = before.Outcome, before.Status, before.ResponseFlags
		s.step("inbound", "reached", "the request reaches the program at "+program(s, t.addr.Port()))
	}
	return nil
}

// keep puts the caller's side back: it stays what the answer is about.
func (a *Answer) keep(caller *Answer) {
	a.Listener, a.VirtualHost, a.Route = caller.Listener, caller.VirtualHost, caller.Route
	a.Request, a.Destinations, a.Timeout, a.Retries = caller.Request, caller.Destinations, caller.Timeout, caller.Retries
}

// maxHops is how many gateways an explanation follows a request through.
const maxHops = 4

// onward runs a gateway within the mesh that a request was sent to (egress,
// most often), and what stands behind it.
func (r *run) onward(t *target, cl model.Client, name string, http bool) error {
	s := newSide(name, r.c.Mesh.View(cl), r.a)
	defer s.close()
	if r.hops++; r.hops > maxHops {
		s.step("listener", "not_followed", fmt.Sprintf("%d gateways were passed, no more are looked at", maxHops))
		return nil
	}
	in := inflight{destination: t.addr, source: netip.AddrPortFrom(r.source, 0)}
	if !http { // bytes, as the program sent them
		in.tls, in.sni, in.alpn = r.q.TLS, r.q.SNI, r.q.ALPN
	}
	if !r.secure(s, t, &in, cl) {
		return nil
	}
	i := slices.IndexFunc(s.view.Servers, func(p *model.GatewayPort) bool {
		return p.Port == t.addr.Port() || p.Listen.IsValid() && p.Listen.Port() == t.addr.Port()
	})
	if i < 0 || s.snap.Listeners[s.view.Servers[i].Name] == nil {
		s.step("listener", "no_match", fmt.Sprintf("no server of a Gateway opens port %d of this workload", t.addr.Port()))
		r.tlsError(&in, http)
		return nil
	}
	p := s.view.Servers[i]
	s.entry = p.Origin
	s.stepAt("listener", "matched", fmt.Sprintf("port %d is listener %s", t.addr.Port(), p.Name), p.Origin)
	before := *r.a
	defer func() { r.a.keep(&before) }()
	r.a.Outcome = ""
	r.self, r.source = principal(r.c.Mesh.Settings.TrustDomain, cl), addressOf(cl)
	to := s.connection(r, s.snap.Listeners[p.Name], &in)
	switch {
	case to != nil:
		return r.arrive(s, to)
	case r.a.Outcome == TLSError || r.a.Outcome == NoListener:
		r.tlsError(&in, http)
	}
	return nil
}

// speaks tells what the caller's proxy says to a workload, and who wants it so.
func (s *side) speaks(t *target) {
	mc := modelCluster(s, t.cluster.Name)
	if mc == nil {
		return
	}
	what := map[string]string{"none": "plain text", "istio_mutual": "mesh mTLS", "simple": "TLS", "mutual": "TLS with a certificate of its own"}[tlsKind(t.tls)]
	if o := mc.TLS.Origin; o.Kind != "" {
		s.stepAt("tls", "chosen", "the caller speaks "+what+" to it, as this rule says", o)
		return
	}
	why := "nothing says otherwise"
	switch {
	case t.tls != nil:
		why = "the workload has a sidecar and its port takes it"
	case mc.External:
		why = "the destination is outside the mesh"
	case !t.workload.MTLS:
		why = "the workload has no sidecar"
	case mc.TLS.Mode == model.TLSAuto:
		why = "the port's mTLS is DISABLE"
	}
	s.step("tls", "chosen", "the caller speaks "+what+" to it: "+why)
}

// admit runs the inbound listener; a connection that no chain takes is one
// that the port's mTLS mode refuses.
func (s *side) admit(r *run, l *conf.Listener, in *inflight, http bool) {
	policy, declared := s.view.InboundDefault, "an undeclared port"
	for _, p := range s.view.Inbound {
		if p.Port == in.destination.Port() {
			policy, declared = p.Policy, "port "+fmt.Sprint(p.Port)
		}
	}
	refused := policy.MTLS == model.MTLSStrict && !in.mutual || policy.MTLS == model.MTLSDisable && in.mutual
	verdict := map[bool]string{true: "refused", false: "accepted"}[refused]
	s.stepAt("mtls", verdict, fmt.Sprintf("%s is %s and the caller speaks %s", declared, policy.MTLS, in.speaks()), policy.MTLSOrigin)
	r.a.Outcome = ""
	to := s.connection(r, l, in)
	switch {
	case to != nil && refused:
		// A TCP port takes any bytes, also a handshake that nobody answers.
		s.step("mtls", "refused", "the handshake reaches the program, which has no certificate of the mesh")
		r.tlsError(in, http)
	case to != nil:
		r.a.Outcome = Routed
	case refused || r.a.Outcome == NoListener || r.a.Outcome == TLSError:
		r.tlsError(in, http)
	}
}

// program is where the program behind a workload's port listens.
func program(s *side, port uint16) string {
	for _, p := range s.view.Inbound {
		if p.Port == port && p.App.IsValid() && p.App.Port() != port && !p.Listen.IsValid() {
			return fmt.Sprintf("%s (for port %d)", p.App, port)
		}
	}
	return fmt.Sprintf("port %d", port)
}

// tlsError is what the caller sees of a connection that the other side did not
// want: a failed handshake, or with plain text an early end.
func (r *run) tlsError(in *inflight, http bool) {
	r.a.Outcome = TLSError
	o := telemetry.ConnectFailed
	if in.tls {
		r.a.ResponseFlags = o.Flag.String()
	}
	if http {
		r.a.Status = o.Status
		if !in.tls {
			r.a.ResponseFlags = telemetry.FlagUC.String()
		}
	}
}

// secure sets up what the caller's proxy says to the destination: mTLS with an
// identity, plain text, or TLS that the destination's sidecar cannot open.
func (r *run) secure(s *side, t *target, in *inflight, cl model.Client) bool {
	if t.tls == nil {
		if r.q.As != "" {
			s.step("tls", "none", "the connection is plain text: no identity can be seen, also not "+r.q.As)
		}
		return true
	}
	in.tls, in.sni, in.alpn = true, t.tls.SNI, t.tls.ALPN
	if !t.tls.Mesh {
		return true
	}
	server := principal(r.c.Mesh.Settings.TrustDomain, cl)
	if len(t.tls.SANs) > 0 && !slices.ContainsFunc(t.tls.SANs, func(m conf.StringMatch) bool { return route.Text(&m, server) }) {
		s.step("tls", "failed", fmt.Sprintf("the caller expects another identity than %s", server))
		r.a.Outcome, r.a.Status, r.a.ResponseFlags = TLSError, telemetry.ConnectFailed.Status, telemetry.ConnectFailed.Flag.String()
		return false
	}
	who := r.self
	if r.q.As != "" {
		who = "spiffe://" + strings.TrimPrefix(r.q.As, "spiffe://")
	}
	in.mutual, in.principals = true, []string{who}
	s.step("tls", "mutual", "the caller shows the identity "+who)
	return true
}
