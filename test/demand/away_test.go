package demand

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

// known uses what serves without the control plane, and new what does not.
func (s *sidecar) known() {
	s.t.Helper()
	s.is("a known host", s.get("10.0.0.1:80", "a.shop"), "200 a!")
	s.is("a host that is known not to be", s.get("10.0.0.1:80", "none.shop"), "200 outside!")
	s.is("a known address", s.tcp("10.0.0.9:3306"), "db")
	s.is("a known server name", s.sni("192.0.2.1:443", "db.shop"), "tls")
	s.is("a host elsewhere", s.get("192.0.2.1:80", "example.com"), "200 outside!")
	s.is("an address elsewhere", s.tcp("192.0.2.1:3306"), "outside")
	s.is("a server name elsewhere", s.sni("192.0.2.1:443", "example.com"), "outside")
}

// new fails as NC, all at the same time so that it takes two seconds only.
func (s *sidecar) new(n string) {
	s.t.Helper()
	var all sync.WaitGroup
	all.Go(func() { s.is("a new host", s.get("10.0.0.1:80", n+".wild.shop"), "503") })
	all.Go(func() { s.is("a new host by HTTP/2", s.request("10.0.0.1:80", n+"2.wild.shop", true), "503") })
	all.Go(func() { s.is("a new address", s.tcp(fmt.Sprintf("10.0.1.%d:3306", len(n))), "") })
	all.Go(func() { s.is("a new server name", s.sni("192.0.2.1:443", n+".shop"), "") })
	all.Wait()
}

// requests counts the requests with a flag.
func (s *sidecar) flagged(flag string) int {
	return countOf(s.Metrics(), `istio_requests_total\{[^}]*response_flags="`+flag+`"[^}]*\}`)
}

// A control plane that does not answer, is stopped, and comes back: what is known
// and what is elsewhere goes on, what is new fails in the end and not before, and
// all of it heals by itself.
func TestAway(t *testing.T) {
	p, b := shop(t)
	s := newSidecar(t, boot(p), b["outside"].addr).ready()
	s.known()
	p.hush(true)
	s.known()
	s.new("slow")
	if n := s.flagged("NC"); n != 2 {
		t.Errorf("%d requests with NC, want 2", n)
	}
	p.hush(false)
	s.wait("a host that was not answered for", func() bool { return s.get("10.0.0.1:80", "slow.wild.shop") == "200 wild!" })
	p.stop()
	s.known()
	s.new("stopped")
	p.start()
	s.wait("a host that nobody could be asked for", func() bool { return s.get("10.0.0.1:80", "stopped.wild.shop") == "200 wild!" })
	s.known()
	if n := s.metric("tulle_proxy_lookups_waiting"); n != 0 {
		t.Errorf("%d wait for nothing", n)
	}
}

// A connection that waits when the answer comes goes on, also when the control
// plane was away meanwhile.
func TestAnsweredWhileWaiting(t *testing.T) {
	p, b := shop(t)
	s := newSidecar(t, boot(p), b["outside"].addr).ready()
	s.known()
	p.hush(true)
	var answers []string
	for i := range 5 { // a machine that stands still for two seconds has another try
		got := make(chan string, 2)
		before := s.metric("tulle_proxy_lookups_waited_total")
		go func() { got <- s.get("10.0.0.1:80", fmt.Sprintf("x%d.wild.shop", i)) }()
		go func() { got <- s.sni(fmt.Sprintf("10.0.2.%d:443", i), "db.shop") }()
		s.wait("both wait", func() bool { return s.metric("tulle_proxy_lookups_waited_total") == before+2 })
		p.hush(false)
		answers = []string{<-got, <-got}
		slices.Sort(answers)
		if slices.Equal(answers, []string{"200 wild!", "tls"}) {
			return
		}
		p.hush(true)
	}
	t.Errorf("answers %q", answers)
}

// Clients that give up leave nothing behind.
func TestGivesUp(t *testing.T) {
	p, b := shop(t)
	s := newSidecar(t, boot(p), b["outside"].addr).ready()
	s.known()
	p.hush(true)
	before, waited := s.Connections(), s.metric("tulle_proxy_lookups_waited_total")
	var all []net.Conn
	for i := range 20 {
		c, err := s.connect("10.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nhost: h%d.shop\r\n\r\n", i); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	s.wait("all wait", func() bool { return s.metric("tulle_proxy_lookups_waited_total") >= waited+len(all) })
	for _, c := range all {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	s.wait("nobody waits", func() bool { return s.metric("tulle_proxy_lookups_waiting") == 0 })
	if n := s.metric("tulle_proxy_lookups_failed_total"); n == len(all) {
		t.Error("they waited for their time to end")
	}
	s.wait("nothing is open", func() bool { return s.Connections() <= before })
}

// After a restart without a control plane, what was learnt is known.
func TestRestart(t *testing.T) {
	p, b := shop(t)
	at := boot(p)
	at.StateDir = t.TempDir()
	s := newSidecar(t, at, b["outside"].addr).ready()
	s.known()
	p.stop()
	s.end()
	s = newSidecar(t, at, b["outside"].addr).ready()
	s.known()
	s.new("later")
	p.mu.Lock()
	p.lookups = nil
	p.mu.Unlock()
	p.start()
	want := []string{"0.0.0.0_443", "0.0.0.0_443/db.shop", "0.0.0.0_80", "0.0.0.0_80/a.shop", "0.0.0.0_80/none.shop", "10.0.0.1_80", "10.0.0.9_3306"}
	s.wait("what is known is asked for again", func() bool { return slices.Equal(p.asked(), want) || len(p.asked()) > len(want) })
	s.wait("what was new", func() bool { return s.get("10.0.0.1:80", "later.wild.shop") == "200 wild!" })
}

// However many hosts and addresses that the index excludes are not asked for; of
// those that it includes the table holds what it may. A gateway asks for nothing.
func TestManyNames(t *testing.T) {
	p, b := shop(t)
	s := newSidecar(t, boot(p), b["outside"].addr).ready()
	s.known()
	before := len(p.asked())
	c, err := s.connect("10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func(host string) string { return exchange(t, c, host) }
	for i := range 2000 {
		s.is("a host elsewhere", ask(fmt.Sprintf("h%d.example.com", i)), "200")
	}
	if n := len(p.asked()); n != before {
		t.Errorf("%d lookups for hosts that the index excludes", n-before)
	}
	for i := range 300 {
		s.is("a host of the mesh that is not", ask(fmt.Sprintf("h%d.shop", i)), "200")
	}
	if n := len(p.asked()); n != before+300 || s.metric("tulle_proxy_lookups_names") != n {
		t.Errorf("%d lookups for 300 hosts, %d names are held", n-before, s.metric("tulle_proxy_lookups_names"))
	}
	at := boot(p)
	at.Workload = proxy.Workload{Gateway: true}
	g := newSidecar(t, at, b["outside"].addr)
	g.wait("the gateway has its configuration", func() bool { return len(g.Snapshot().Clusters) > 0 })
	if g.Learnt() != nil || g.Snapshot().Index != nil {
		t.Error("the gateway is on demand")
	}
}
