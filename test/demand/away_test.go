package demand

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

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

// A connection that waits when the answer comes goes on, with all that its client
// has sent meanwhile, and its end.
func TestAnsweredWhileWaiting(t *testing.T) {
	p, b := shop(t)
	s := newSidecar(t, boot(p), b["outside"].addr).ready()
	s.known()
	p.hush(true)
	much := []byte("e" + strings.Repeat("0123456789", 30_000))
	for i := range 5 { // a machine that stands still for two seconds has another try
		var host, name string
		var echoed []byte
		before := s.metric("tulle_proxy_lookups_waited_total")
		var all sync.WaitGroup
		all.Go(func() { host = s.get("10.0.0.1:80", fmt.Sprintf("x%d.wild.shop", i)) })
		all.Go(func() { name = s.sni(fmt.Sprintf("10.0.2.%d:443", i), "db.shop") })
		all.Go(func() { echoed = s.echo(fmt.Sprintf("10.0.3.%d:3306", i), much) })
		s.wait("all wait", func() bool { return s.metric("tulle_proxy_lookups_waited_total") == before+3 })
		p.hush(false)
		all.Wait()
		if host == "200 wild!" && name == "tls" && bytes.Equal(echoed, much) {
			return
		}
		t.Logf("answers %q, %q, %d bytes of %d", host, name, len(echoed), len(much))
		p.hush(true)
	}
	t.Error("none went on as it was")
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

var many = flag.Int("many", 20_000, "hosts and addresses that are tried by chance")

// However many hosts and addresses a program tries: those that the index excludes
// are not asked for, of those that it includes so many a second, and the table
// holds what it may. What there is of the mesh is had in between, and when one of
// those that were not there comes to be, it is there. A gateway asks for nothing.
func TestManyNames(t *testing.T) {
	p, b := shop(t)
	s := newSidecar(t, boot(p), b["outside"].addr).ready()
	s.known()
	before := len(p.asked())
	r := rand.New(rand.NewPCG(1, 2))
	c, err := s.connect("10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	ask := func(host string) string { return exchange(t, c, in, host) }
	for i := range *many {
		if i%20 == 0 { // a connection costs more than a request
			s.is("an address elsewhere", s.tcp(fmt.Sprintf("192.%d.%d.%d:%d", r.IntN(256), r.IntN(256), r.IntN(256), 1+r.IntN(65535))), "outside")
		}
		s.is("a host elsewhere", ask(fmt.Sprintf("h%d.example.com", r.Uint32())), "200")
	}
	if n := len(p.asked()); n != before {
		t.Errorf("%d lookups for what the index excludes", n-before)
	}

	// Those that the index includes, hundreds at a time.
	var memory [2]runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory[0])
	begin := time.Now()
	var all sync.WaitGroup
	var next atomic.Int64
	for w := range 300 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(3, uint64(w)))
			for next.Add(1) < int64(*many/50) {
				if got := s.get("10.0.0.1:80", fmt.Sprintf("h%d.shop", r.Uint32())); got != "200 outside!" && got != "503" {
					t.Errorf("a host that may be of the mesh: %q", got)
				}
				if got := s.tcp(fmt.Sprintf("10.%d.%d.%d:3306", 1+r.IntN(255), r.IntN(256), r.IntN(256))); got != "outside" && got != "" {
					t.Errorf("an address that may be of the mesh: %q", got)
				}
			}
		})
	}
	all.Go(func() {
		for range 20 {
			s.is("a known host", s.get("10.0.0.1:80", "a.shop"), "200 a!")
		}
	})
	all.Wait()
	asked, took := len(p.asked())-before, time.Since(begin)
	if most := int(took.Seconds()*200) + 1000; asked > most || asked < 64 {
		t.Errorf("%d lookups in %v", asked, took)
	}
	runtime.GC()
	runtime.ReadMemStats(&memory[1])
	if n, names := int(memory[1].HeapAlloc)-int(memory[0].HeapAlloc), s.metric("tulle_proxy_lookups_names"); names > 4096 || n > 32<<20 {
		t.Errorf("%d names are held, %d bytes more than before", names, n)
	}
	t.Logf("%d tried, %d lookups in %v, %d refused, %d KiB more", 2**many/50, asked, took, s.metric("tulle_proxy_lookups_refused_total"), (int(memory[1].HeapAlloc)-int(memory[0].HeapAlloc))>>10)
	s.wait("nobody waits", func() bool { return s.metric("tulle_proxy_lookups_waiting") == 0 })
	s.known()
	s.is("a host of nobody", s.get("10.0.0.1:80", "later.shop"), "200 outside!")
	p.set(routes, map[string]proto.Message{"0.0.0.0_80/later.shop": table("0.0.0.0_80/later.shop", "a", "later.shop")})
	s.wait("a host that came to be", func() bool { return s.get("10.0.0.1:80", "later.shop") == "200 a!" })
}

// A gateway has everything, and looks nothing up whatever it is asked for.
func TestGateway(t *testing.T) {
	p, b := shop(t)
	p.generation(true) // which sends everything
	p.set(routes, map[string]proto.Message{"80": table("80", "a", "*")})
	in := listener("0.0.0.0_8443", "0.0.0.0:15001", httpBy("80"))
	in.BindToPort = nil
	p.set(listeners, map[string]proto.Message{"virtualOutbound": nil, "0.0.0.0_8443": in})
	at := boot(p)
	at.Workload = proxy.Workload{Gateway: true}
	g := newSidecar(t, at, b["outside"].addr).ready()
	before := len(p.asked())
	c, err := g.connect("192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf, r := bufio.NewReader(c), rand.New(rand.NewPCG(1, 2))
	for range *many {
		g.is("a host", exchange(t, c, buf, fmt.Sprintf("h%d.%s", r.Uint32(), pick(r, "shop", "example.com"))), "200")
	}
	if n := len(p.asked()); n != before || g.Learnt() != nil || g.Snapshot().Index != nil {
		t.Errorf("%d lookups of a gateway", n-before)
	}
}
