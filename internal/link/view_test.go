package link

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tulle-mesh/tulle/internal/model"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata")

// TestCases runs testdata/*.txtar. A case has a mesh in model's text form,
// perhaps settings, and expected parts: "notices", and "view CLIENT WHAT",
// where CLIENT is ns/name of a workload in the mesh and WHAT some of routes,
// clusters, listeners, inbound, servers, each perhaps with "=part of a name".
func TestCases(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { runCase(t, path) })
	}
}

func runCase(t *testing.T, path string) {
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(bytes.TrimSpace(ar.Comment)) == 0 {
		t.Error("the case does not say why it is there")
	}
	s := Defaults()
	var f model.Fragment
	var m *Mesh
	var n []model.Notice
	told := false
	for i, part := range ar.Files {
		kind, arg, _ := strings.Cut(part.Name, " ")
		var got string
		switch kind {
		case "settings":
			applySettings(t, &s, string(part.Data))
			continue
		case "mesh":
			if f, err = model.Parse(string(part.Data)); err != nil {
				t.Fatal(err)
			}
			fillOrigins(&f)
			m, n = Link(f, s)
			continue
		case "notices":
			told = true
			for _, x := range n {
				got += fmt.Sprintf("%s %s: %s\n", x.Severity, x.Reason, x)
			}
		case "view":
			words := strings.Fields(arg)
			got = showView(m.View(clientNamed(t, m, words[0])), words[1:])
		default:
			t.Fatalf("unknown part %q", part.Name)
		}
		if *update {
			ar.Files[i].Data = []byte(got)
		} else if d := cmp.Diff(string(part.Data), got); d != "" {
			t.Errorf("%s: -want +got\n%s", part.Name, d)
		}
	}
	if !told && len(n) > 0 {
		t.Errorf("notices that the case does not expect:\n%v", n)
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func applySettings(t *testing.T, s *model.Settings, text string) {
	for _, w := range strings.Fields(text) {
		switch w {
		case "registry-only":
			s.AllowAny = false
		case "no-auto-mtls":
			s.AutoMTLS = false
		default:
			t.Fatalf("unknown setting %q", w)
		}
	}
}

// clientNamed makes the client of a workload. "ns/name+ports" is one in ports
// mode, with a socket on 127.0.0.1 per service port from 20000 on.
func clientNamed(t *testing.T, m *Mesh, name string) model.Client {
	name, ports := strings.CutSuffix(name, "+ports")
	ns, n, _ := strings.Cut(name, "/")
	l := m.facts.running.get(model.Ref{Namespace: ns, Name: n})
	if len(l) == 0 {
		t.Fatalf("no workload %s in the mesh", name)
	}
	c := clientOf(l[0])
	if a, err := netip.ParseAddr(l[0].Address); err == nil {
		c.Addresses = []netip.Addr{a}
	}
	if !ports {
		return c
	}
	c.Capture = model.PortsMode
	c.Local = map[string]netip.AddrPort{}
	next := uint16(20000)
	for _, s := range m.Services(ns) {
		for _, p := range s.Ports {
			c.Local[s.Host+":"+strconv.Itoa(int(p.Number))] = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), next)
			next++
		}
	}
	c.HTTPProxy = netip.MustParseAddrPort("127.0.0.1:15080")
	return c
}

// fillOrigins gives objects that were written without an origin one.
func fillOrigins(f *model.Fragment) {
	obj := func(o *model.Origin, kind, ns, name string) {
		if o.Kind == "" {
			*o = model.Origin{Kind: kind, Namespace: ns, Name: name}
		}
	}
	field := func(o *model.Origin, parent model.Origin, format string, args ...any) {
		if o.Kind == "" {
			*o = parent.At(fmt.Sprintf(format, args...), 0)
		}
	}
	for _, x := range f.Services {
		kind := "ServiceEntry"
		if x.Kubernetes {
			kind = "Service"
		}
		if x.Name == "" {
			x.Name, _, _ = strings.Cut(x.Host, ".")
		}
		if rest, ok := strings.CutSuffix(x.Host, ".svc.cluster.local"); ok && x.Namespace == "" {
			_, x.Namespace, _ = strings.Cut(rest, ".")
		}
		obj(&x.Origin, kind, x.Namespace, x.Name)
	}
	for _, x := range f.Workloads {
		kind := "Pod"
		if x.Template {
			kind = "Deployment"
		}
		obj(&x.Origin, kind, x.Namespace, x.Name)
	}
	for _, x := range f.RouteSets {
		obj(&x.Origin, "VirtualService", x.Namespace, x.Name)
		for i := range x.HTTP {
			h := &x.HTTP[i]
			field(&h.Origin, x.Origin, "spec.http[%d]", i)
			for j := range h.Backends {
				field(&h.Backends[j].Origin, x.Origin, "spec.http[%d].route[%d]", i, j)
			}
		}
		for i := range x.TLS {
			field(&x.TLS[i].Origin, x.Origin, "spec.tls[%d]", i)
			for j := range x.TLS[i].Matches {
				field(&x.TLS[i].Matches[j].Origin, x.Origin, "spec.tls[%d].match[%d]", i, j)
			}
		}
		for i := range x.TCP {
			field(&x.TCP[i].Origin, x.Origin, "spec.tcp[%d]", i)
		}
	}
	for _, x := range f.Destinations {
		obj(&x.Origin, "DestinationRule", x.Namespace, x.Name)
		for i := range x.Subsets {
			field(&x.Subsets[i].Origin, x.Origin, "spec.subsets[%d]", i)
		}
	}
	for _, x := range f.Gateways {
		obj(&x.Origin, "Gateway", x.Namespace, x.Name)
		for i := range x.Servers {
			field(&x.Servers[i].Origin, x.Origin, "spec.servers[%d]", i)
		}
	}
	for _, x := range f.MTLS {
		obj(&x.Origin, "PeerAuthentication", x.Namespace, x.Name)
	}
	for _, x := range f.Authz {
		obj(&x.Origin, "AuthorizationPolicy", x.Namespace, x.Name)
	}
	for _, x := range f.Secrets {
		for k, v := range x.Data {
			if pem, ok := testPEM()[string(v)]; ok {
				x.Data[k] = pem
			}
		}
		obj(&x.Origin, "Secret", x.Namespace, x.Name)
	}
}

// testPEM makes the key pairs that cases call CERT1, KEY1, CERT2 and KEY2.
var testPEM = sync.OnceValue(func() map[string]model.Sensitive {
	out := map[string]model.Sensitive{}
	for _, n := range []string{"1", "2"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
		cert, err1 := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
		der, err2 := x509.MarshalPKCS8PrivateKey(key)
		if err := errors.Join(err1, err2); err != nil {
			panic(err)
		}
		out["CERT"+n] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
		out["KEY"+n] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	return out
})

func showView(v *model.View, what []string) string {
	var b strings.Builder
	for _, w := range what {
		w, filter, _ := strings.Cut(w, "=")
		has := func(name string) bool { return strings.Contains(name, filter) }
		switch w {
		case "routes":
			for _, t := range v.HTTP {
				for _, h := range t.Hosts {
					if has(t.Name + "/" + h.Name) {
						showHost(&b, t, h)
					}
				}
			}
		case "tables":
			for _, t := range v.HTTP {
				fmt.Fprintf(&b, "table %s with %d hosts\n", t.Name, len(t.Hosts))
			}
		case "clusters":
			for _, c := range v.Clusters {
				if has(c.Name) {
					showCluster(&b, c)
				}
			}
		case "listeners":
			for _, o := range v.Outbound {
				if has(o.Name) {
					showOutbound(&b, o)
				}
			}
		case "inbound":
			for _, in := range v.Inbound {
				showInbound(&b, in)
			}
			fmt.Fprintf(&b, "inbound * %s\n", showPolicy(v.InboundDefault))
		case "servers":
			for _, p := range v.Servers {
				showPort(&b, p)
			}
			for _, x := range v.Broken {
				fmt.Fprintf(&b, "broken %d %s: %s\n", x.Port, strings.Join(x.Hosts, ","), x.Why)
			}
			for _, x := range v.Secrets {
				fmt.Fprintf(&b, "secret %s/%s\n", x.Namespace, x.Name)
			}
		default:
			panic("unknown part of a view: " + w)
		}
	}
	return b.String()
}

func showHost(b *strings.Builder, t *model.HTTPTable, h *model.VirtualHost) {
	fmt.Fprintf(b, "%s/%s: %s", t.Name, h.Name, strings.Join(h.Domains, " "))
	for _, x := range []struct {
		on   bool
		text string
	}{{h.AllowAny, "allow-any"}, {h.BlackHole, "black-hole"}, {h.RequireTLS, "require-tls"}, {t.WithPort, "with-port"}} {
		if x.on {
			b.WriteString(" [" + x.text + "]")
		}
	}
	b.WriteByte('\n')
	for _, r := range h.Routes {
		showRoute(b, r)
	}
}

// showRoute uses the text form of the match and of what is done.
func showRoute(b *strings.Builder, r *model.Route) {
	m := r.Match
	m.Origin = model.Origin{}
	rule := model.HTTPRule{
		Name: r.Name, Matches: []model.HTTPMatch{m}, Redirect: r.Redirect, Direct: r.Direct, Rewrite: r.Rewrite,
		Fault: r.Fault, CORS: r.CORS, Headers: r.Headers,
	}
	if r.Retry != nil && !r.Retry.FromMeshDefault {
		rule.Retry = r.Retry
	}
	if r.Timeout != 0 {
		rule.Timeout = &r.Timeout
	}
	text := model.Text(model.Fragment{RouteSets: []*model.RouteSet{{HTTP: []model.HTTPRule{rule}}}})
	lines := strings.Split(strings.TrimSpace(text), "\n")[1:]
	fmt.Fprintf(b, "%s", lines[0])
	if len(r.Backends) > 0 && r.Retry == nil {
		b.WriteString(" no-retry")
	}
	if r.Hash != nil {
		fmt.Fprintf(b, " hash=%s%s%v", r.Hash.Header, r.Hash.Query, r.Hash.SourceIP)
	}
	fmt.Fprintf(b, "  # %s\n", r.Origin.ID())
	for _, l := range lines[1:] {
		if strings.TrimSpace(l) != "match" {
			b.WriteString(l + "\n")
		}
	}
	for _, x := range r.Backends {
		fmt.Fprintf(b, "    -> %s\n", showBackend(x))
	}
	for _, x := range r.Mirrors {
		fmt.Fprintf(b, "    => %v%% %s\n", x.Percent, x.Cluster)
	}
}

func showBackend(x model.RouteBackend) string {
	t := fmt.Sprintf("%d %s", x.Weight, x.Cluster)
	if x.Missing {
		t += " MISSING"
	}
	if x.Authority != "" {
		t += " authority=" + x.Authority
	}
	if x.Headers != nil {
		t += fmt.Sprintf(" set=%v", x.Headers.Request.Set)
	}
	return t
}

func showCluster(b *strings.Builder, c *model.Cluster) {
	fmt.Fprintf(b, "%s %s %s", c.Name, [...]string{"static", "dns", "dns-round-robin", "passthrough"}[c.Resolution],
		[...]string{"auto", "disable", "simple", "mutual", "istio-mutual"}[c.TLS.Mode])
	if c.Balance.Algorithm != 0 {
		fmt.Fprintf(b, " balance=%d", c.Balance.Algorithm)
	}
	if c.Pool.MaxConnections != 0 {
		fmt.Fprintf(b, " connections=%d", c.Pool.MaxConnections)
	}
	if c.Pool.ConnectTimeout.String() != "10s" {
		fmt.Fprintf(b, " connect=%v", c.Pool.ConnectTimeout)
	}
	if c.Outlier != nil {
		b.WriteString(" outlier")
	}
	if c.Retries != nil {
		fmt.Fprintf(b, " retries=%v%%/%d", *c.Retries.Percent, c.Retries.Min)
	}
	if c.Weighted {
		b.WriteString(" weighted")
	}
	if c.HTTP2 {
		b.WriteString(" h2")
	}
	if c.TLS.SNI != "" {
		b.WriteString(" sni=" + c.TLS.SNI)
	}
	if len(c.TLS.SANs) > 0 {
		b.WriteString(" tls-sans=" + strings.Join(c.TLS.SANs, ","))
	}
	var ids []string
	for _, o := range c.Origins {
		ids = append(ids, o.ID())
	}
	fmt.Fprintf(b, "  # %s\n", strings.Join(ids, " "))
	if len(c.SANs) > 0 {
		fmt.Fprintf(b, "  sans %s sni %s\n", strings.Join(c.SANs, " "), c.SNI)
	}
	for _, e := range c.Endpoints {
		fmt.Fprintf(b, "  %s:%d", e.Address, e.Port)
		if e.Weight != 1 {
			fmt.Fprintf(b, " weight=%d", e.Weight)
		}
		if e.MTLS {
			b.WriteString(" mtls")
		}
		if !e.Ready {
			b.WriteString(" unready")
		}
		if e.Priority > 0 {
			fmt.Fprintf(b, " priority=%d", e.Priority)
		}
		if n, ok := c.Shares[e.Locality]; ok {
			fmt.Fprintf(b, " share=%d", n)
		}
		if e.Workload != "" {
			b.WriteString(" " + e.Workload)
		}
		b.WriteByte('\n')
	}
}

func showOutbound(b *strings.Builder, o *model.Outbound) {
	fmt.Fprintf(b, "%s %s", o.Name, o.Protocol)
	if o.Bind {
		fmt.Fprintf(b, " bound %s:%d", o.Address, o.Port)
	}
	if o.Table != "" {
		b.WriteString(" table " + o.Table)
	}
	b.WriteByte('\n')
	showTCP(b, o.TCP)
}

func showTCP(b *strings.Builder, l []*model.TCPRoute) {
	for _, r := range l {
		b.WriteString("  tcp")
		if len(r.SNI) > 0 {
			b.WriteString(" sni " + strings.Join(r.SNI, ","))
		}
		if len(r.Subnets) > 0 {
			fmt.Fprintf(b, " to %v", r.Subnets)
		}
		b.WriteString(" ->")
		for _, x := range r.Backends {
			b.WriteString(" " + showBackend(x))
		}
		fmt.Fprintf(b, "  # %s\n", r.Origin.ID())
	}
}

func showInbound(b *strings.Builder, in *model.Inbound) {
	fmt.Fprintf(b, "inbound %d %s %s", in.Port, in.Protocol, showPolicy(in.Policy))
	if in.Service != nil {
		fmt.Fprintf(b, " for %s:%d", in.Service.Host, in.ServicePort)
	}
	if in.Pool.MaxConnections != 0 {
		fmt.Fprintf(b, " connections=%d", in.Pool.MaxConnections)
	}
	if in.Listen.IsValid() {
		fmt.Fprintf(b, " listen %s app %s", in.Listen, in.App)
	}
	b.WriteByte('\n')
}

func showPolicy(p model.InboundPolicy) string {
	t := p.MTLS.String()
	if p.MTLSOrigin.Kind != "" {
		t += " by " + p.MTLSOrigin.ID()
	}
	for _, a := range p.Authz {
		t += fmt.Sprintf(" %s:%s", a.Action, a.Origin.ID())
	}
	return t
}

func showPort(b *strings.Builder, p *model.GatewayPort) {
	fmt.Fprintf(b, "port %s for %d", p.Name, p.External)
	if p.Listen.IsValid() {
		fmt.Fprintf(b, " listen %s", p.Listen)
	}
	if p.Table != "" {
		b.WriteString(" table " + p.Table)
	}
	for _, a := range p.Policy.Authz {
		fmt.Fprintf(b, " %s:%s", a.Action, a.Origin.ID())
	}
	b.WriteByte('\n')
	for _, s := range p.Servers {
		fmt.Fprintf(b, "  server %s %s", strings.Join(s.Hosts, ","), s.Protocol)
		if s.TLS != nil {
			b.WriteString(" " + [...]string{"passthrough", "simple", "mutual", "optional-mutual", "istio-mutual", "auto-passthrough"}[s.TLS.Mode])
		}
		if len(s.Secrets) > 0 {
			b.WriteString(" " + strings.Join(s.Secrets, ","))
		}
		if s.Table != "" {
			b.WriteString(" table " + s.Table)
		}
		fmt.Fprintf(b, "  # %s\n", s.Origin.ID())
		showTCP(b, s.TCP)
	}
}

// Every View is the same when it is made again, and its parts are in order.
func TestViewIsStable(t *testing.T) {
	paths, _ := filepath.Glob("testdata/*.txtar")
	for _, path := range paths {
		ar, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for range 3 {
			var all strings.Builder
			for _, part := range ar.Files {
				if part.Name != "mesh" {
					continue
				}
				f, err := model.Parse(string(part.Data))
				if err != nil {
					t.Fatal(err)
				}
				fillOrigins(&f)
				m, n := Link(f, Defaults())
				fmt.Fprintln(&all, n)
				for _, w := range m.Workloads() {
					all.WriteString(showView(m.View(clientOf(w)), []string{"routes", "clusters", "listeners", "inbound", "servers"}))
				}
			}
			texts = append(texts, all.String())
		}
		if !slices.Equal(texts[1:], texts[:2]) {
			t.Errorf("%s: not the same every time:\n%s", path, cmp.Diff(texts[0], texts[1]))
		}
	}
}
