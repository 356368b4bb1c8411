//go:build linux

package listen

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/listen/match"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

const wait = 20 * time.Second

func recv[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(wait):
		t.Fatal("nothing came")
	}
	panic("unreachable")
}

// arrival is what a test sees of an Accepted.
type arrival struct {
	listener, chain string
	original        netip.AddrPort
	info            match.Info
	pending         string
	loop            int
}

// bench is a set whose connections are greeted with the chain's name and then
// echoed.
type bench struct {
	*Set
	arrived, refused chan arrival
}

func newBench(t testing.TB, loops int, o Options) *bench {
	t.Helper()
	g, err := loop.New(loops)
	if err != nil {
		t.Fatal(err)
	}
	g.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	b := &bench{arrived: make(chan arrival, 1000), refused: make(chan arrival, 1000)}
	see := func(a *Accepted) arrival {
		r := arrival{listener: a.Listener.Name, original: a.Original, info: a.Info, pending: string(a.Pending), loop: a.Conn.Loop().ID()}
		if a.Chain != nil {
			r.chain = a.Chain.Name
		}
		return r
	}
	o.Accepted = func(a *Accepted) {
		b.arrived <- see(a)
		a.Conn.Start(&echo{a.Conn})
		a.Conn.Write([]byte(a.Chain.Name + "\n"))
		a.Conn.Redeliver(a.Pending)
	}
	o.Refused = func(a *Accepted) { b.refused <- see(a) }
	b.Set = New(g, o)
	t.Cleanup(func() {
		b.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if g.Panics() > 0 {
			t.Errorf("%d panics", g.Panics())
		}
	})
	return b
}

type echo struct{ c *loop.Conn }

func (e *echo) OnBytes(p []byte) { e.c.Write(p) }
func (e *echo) OnEOF()           { e.c.Close() }
func (e *echo) OnWritable()      {}
func (e *echo) OnClose(error)    {}

func listener(name string, addrs ...string) *conf.Listener {
	l := &conf.Listener{Name: name, Bind: true, Chains: []*conf.Chain{{Name: name + "-chain"}}}
	for _, a := range addrs {
		l.Addresses = append(l.Addresses, netip.MustParseAddrPort(a))
	}
	return l
}

func (b *bench) update(t testing.TB, ls ...*conf.Listener) {
	t.Helper()
	for name, err := range b.try(ls...) {
		t.Errorf("%s: %v", name, err)
	}
}

func (b *bench) try(ls ...*conf.Listener) map[string]error {
	all := map[string]*conf.Listener{}
	for _, l := range ls {
		all[l.Name] = l
	}
	return b.Update(all)
}

func dial(t testing.TB, to string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(wait))
	return c.(*net.TCPConn), bufio.NewReader(c)
}

// says expects a greeting line.
func says(t testing.TB, r *bufio.Reader, want string) {
	t.Helper()
	if s, err := r.ReadString('\n'); strings.TrimSpace(s) != want {
		t.Errorf("got %q, want %q (%v)", s, want, err)
	}
}

func TestAcceptSpreadsOverLoops(t *testing.T) {
	b := newBench(t, 2, Options{})
	b.update(t, listener("both", "127.0.0.1:0", "[::1]:0"))
	loops := map[int]int{}
	for i := range 20 {
		c, r := dial(t, b.Addresses()[i%2])
		says(t, r, "both-chain")
		a := recv(t, b.arrived)
		loops[a.loop]++
		if a.info.Source.String() != c.LocalAddr().String() || a.info.Destination.String() != c.RemoteAddr().String() || a.original.IsValid() {
			t.Errorf("%+v", a)
		}
	}
	if loops[0] < 7 || loops[1] < 7 {
		t.Errorf("connections by loop: %v", loops)
	}
	if n, _, _ := b.Counts(); n != 20 {
		t.Errorf("counted %d", n)
	}
}

func TestReplaceKeepsSocketsAndConnections(t *testing.T) {
	b := newBench(t, 2, Options{})
	first := listener("a", "127.0.0.1:0")
	b.update(t, first)
	at := b.Addresses()[0]
	old, oldR := dial(t, at)
	says(t, oldR, "a-chain")
	for i := range 20 { // connections come in all the while
		next := listener("a", "127.0.0.1:0")
		next.Chains[0].Name = string(rune('a' + i))
		b.update(t, next)
		if got := b.Addresses(); len(got) != 1 || got[0] != at {
			t.Fatalf("moved from %s to %s", at, got)
		}
		_, r := dial(t, at)
		says(t, r, next.Chains[0].Name)
	}
	renamed := listener("b", "127.0.0.1:0")
	b.update(t, renamed)
	_, r := dial(t, at)
	says(t, r, "b-chain")
	b.update(t)
	if _, err := net.Dial("tcp", at); err == nil {
		// The close is posted to the loop: it must come.
		for err == nil {
			_, err = net.Dial("tcp", at)
		}
	}
	old.Write([]byte("still here\n"))
	says(t, oldR, "still here")
}

func TestAddressInUse(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := other.Addr().String()
	b := newBench(t, 1, Options{})
	bad, good := listener("bad", taken), listener("good", "127.0.0.1:0")
	errs := b.try(bad, good)
	if len(errs) != 1 || !errors.Is(errs["bad"], ErrInUse) || !strings.Contains(errs["bad"].Error(), taken) {
		t.Errorf("%v", errs)
	}
	if len(b.Addresses()) != 1 {
		t.Errorf("%v", b.Addresses())
	}
	other.Close()
	b.update(t, bad, good) // tried again
	_, r := dial(t, taken)
	says(t, r, "bad-chain")

	second := listener("zz", taken)
	errs = b.try(bad, good, second)
	if len(errs) != 1 || !errors.Is(errs["zz"], ErrInUse) || !strings.Contains(errs["zz"].Error(), "listener bad") {
		t.Errorf("%v", errs)
	}
	if errs := b.try(listener("far", "192.0.2.1:80")); !strings.Contains(errs["far"].Error(), "does not have the address") {
		t.Errorf("%v", errs)
	}
}

func TestUnixSocket(t *testing.T) {
	b := newBench(t, 1, Options{})
	path := t.TempDir() + "/s"
	l := &conf.Listener{Name: "u", Pipe: path, Bind: true, Chains: []*conf.Chain{{Name: "unix"}}}
	left, err := OpenUnix(path) // a dead predecessor's
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(left)
	b.update(t, l)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	says(t, bufio.NewReader(c), "unix")
	if _, err := OpenUnix(path); !errors.Is(err, ErrInUse) {
		t.Errorf("%v", err)
	}
	b.update(t)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
}

func TestInheritedSocket(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(fd, true)
	f.Close()
	waiting, r := dial(t, ln.Addr().String()) // in the backlog, not accepted
	ln.Close()
	b := newBench(t, 1, Options{})
	b.Inherit(ln.Addr().String(), fd)
	b.update(t, listener("heir", ln.Addr().String()))
	says(t, r, "heir-chain")
	waiting.Close()
}

// TestShut: who has connected is accepted before a socket is closed, and
// listeners that were shut are not opened again.
func TestShut(t *testing.T) {
	b := newBench(t, 2, Options{})
	in, out := listener("in", "127.0.0.1:0"), listener("out", "127.0.0.2:0")
	in.Inbound = true
	b.update(t, in, out)
	at := b.Addresses()
	var all []*bufio.Reader
	for range 100 {
		_, r := dial(t, at[0])
		all = append(all, r)
	}
	b.Shut(func(l *conf.Listener) bool { return l.Inbound })
	for _, r := range all {
		says(t, r, "in-chain")
	}
	if c, err := net.Dial("tcp", at[0]); err == nil {
		c.Close()
		t.Error("it still listens")
	}
	_, r := dial(t, at[1])
	says(t, r, "out-chain")
	b.update(t, in, out)
	if got := b.Addresses(); len(got) != 1 || got[0] != at[1] {
		t.Errorf("listening on %v", got)
	}
}

// TestHand: two sets accept from one socket until the first leaves.
func TestHand(t *testing.T) {
	first, second := newBench(t, 1, Options{}), newBench(t, 1, Options{})
	l, gone := listener("l", "127.0.0.1:0"), listener("gone", "127.0.0.2:0")
	first.update(t, l, gone)
	at := first.Addresses()
	fds, err := first.Hand()
	if err != nil || len(fds) != 2 {
		t.Fatal(fds, err)
	}
	for k, fd := range fds {
		second.Inherit(k, fd)
	}
	second.update(t, l)
	first.Leave()
	left := make(chan struct{}) // what came until its loop knows is its own
	first.group.Loops()[0].Post(func() { close(left) })
	recv(t, left)
	second.Forget()
	for range 20 {
		_, r := dial(t, at[0])
		says(t, r, "l-chain")
	}
	if len(second.arrived) != 20 || len(first.arrived) != 0 {
		t.Errorf("%d and %d connections", len(first.arrived), len(second.arrived))
	}
	for { // until nobody listens there
		c, err := net.Dial("tcp", at[1])
		if err != nil {
			break
		}
		c.Close()
	}
}

func TestNoChain(t *testing.T) {
	b := newBench(t, 1, Options{})
	l := listener("l", "127.0.0.1:0")
	l.Chains[0].Match.DestinationPort = 1
	b.update(t, l)
	_, r := dial(t, b.Addresses()[0])
	if _, err := r.ReadByte(); err == nil {
		t.Error("left open")
	}
	if a := recv(t, b.refused); a.listener != "l" || a.chain != "" {
		t.Errorf("%+v", a)
	}
}

// inspected is a listener as Istio makes it for a permissive port.
func inspected(extra ...*conf.Chain) *conf.Listener {
	l := listener("in", "127.0.0.1:0")
	l.InspectTLS, l.InspectHTTP = true, true
	l.Chains = append([]*conf.Chain{
		{Name: "mesh", Match: conf.ChainMatch{Transport: "tls", ALPN: []string{"istio"}}},
		{Name: "tls", Match: conf.ChainMatch{Transport: "tls"}},
		{Name: "sni", Match: conf.ChainMatch{Transport: "tls", ServerNames: []string{"*.shop.example"}}},
		{Name: "http", Match: conf.ChainMatch{Transport: "raw_buffer", ALPN: []string{"http/1.0", "http/1.1", "h2c"}}},
		{Name: "raw", Match: conf.ChainMatch{Transport: "raw_buffer"}},
	}, extra...)
	return l
}

func TestInspection(t *testing.T) {
	b := newBench(t, 2, Options{})
	b.update(t, inspected())
	at := b.Addresses()[0]
	big := &tls.Config{ServerName: "a.example", NextProtos: []string{"istio"}, InsecureSkipVerify: true}
	for i := range 60 {
		big.NextProtos = append(big.NextProtos, strings.Repeat("x", 100+i))
	}
	for _, tc := range []struct {
		send        string
		chain, info string
	}{
		{string(record(t, &tls.Config{ServerName: "a.example", NextProtos: []string{"istio"}, InsecureSkipVerify: true})), "mesh", "a.example"},
		{string(record(t, &tls.Config{ServerName: "A.SHOP.example", InsecureSkipVerify: true})), "sni", "a.shop.example"},
		{string(record(t, &tls.Config{ServerName: "b.example", InsecureSkipVerify: true})), "tls", "b.example"},
		{string(record(t, big)), "mesh", "a.example"},
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "http", ""},
		{preface, "http", ""},
		{"\x16\x03\x01\x00\x00 not tls", "raw", ""},
		{"SSH-2.0-OpenSSH\r\n", "raw", ""},
		{"{\"json\": 1}", "raw", ""},
		{"POSTGRES", "raw", ""},
	} {
		for _, size := range []int{1 << 20, 7, 1} {
			if size == 1 && len(tc.send) > 2000 {
				continue
			}
			c, r := dial(t, at)
			c.SetNoDelay(true)
			for rest := tc.send; rest != ""; {
				n := min(size, len(rest))
				if _, err := io.WriteString(c, rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			c.CloseWrite()
			says(t, r, tc.chain)
			// Whatever was read for the choice reaches the codec, once.
			if b, err := io.ReadAll(r); string(b) != tc.send {
				t.Errorf("%.20q: %d bytes came back, want %d (%v)", tc.send, len(b), len(tc.send), err)
			}
			if a := recv(t, b.arrived); a.chain != tc.chain || a.info.SNI != tc.info {
				t.Errorf("%.20q: %s %+v", tc.send, a.chain, a.info)
			}
		}
	}
}

func TestServerFirstIsNotDelayed(t *testing.T) {
	b := newBench(t, 1, Options{})
	l := listener("plain", "127.0.0.1:0")
	b.update(t, l)
	_, r := dial(t, b.Addresses()[0])
	says(t, r, "plain-chain") // without a byte sent

	// Inspectors that other ports need do not matter to this one.
	db := netip.MustParseAddrPort("10.0.0.1:3306")
	b = newBench(t, 1, Options{Original: func(int, netip.AddrPort) netip.AddrPort { return db }})
	l = inspected(&conf.Chain{Name: "mysql", Match: conf.ChainMatch{DestinationPort: 3306}})
	l.RestoreDst = true
	b.update(t, l)
	_, r = dial(t, b.Addresses()[0])
	says(t, r, "mysql")
	if a := recv(t, b.arrived); a.original != db {
		t.Errorf("%+v", a)
	}
}

func TestInspectTimeout(t *testing.T) {
	for _, close := range []bool{false, true} {
		b := newBench(t, 1, Options{})
		l := inspected()
		l.InspectTimeout, l.InspectClose = 30*time.Millisecond, close
		b.update(t, l)
		c, r := dial(t, b.Addresses()[0])
		io.WriteString(c, "GET") // what came stays
		if close {
			if _, err := r.ReadByte(); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				t.Error(err)
			}
			continue
		}
		says(t, r, "raw")
		c.CloseWrite()
		if rest, _ := io.ReadAll(r); string(rest) != "GET" {
			t.Errorf("%q", rest)
		}
	}
}

func TestSilentEndIsNotAConnection(t *testing.T) {
	b := newBench(t, 1, Options{})
	b.update(t, inspected())
	c, r := dial(t, b.Addresses()[0])
	c.CloseWrite()
	if _, err := r.ReadByte(); err == nil {
		t.Error("left open")
	}
	if len(b.arrived)+len(b.refused) != 0 {
		t.Error("handed on")
	}
}

func TestHandover(t *testing.T) {
	dst := netip.MustParseAddrPort("10.0.0.1:80")
	b := newBench(t, 1, Options{Original: func(int, netip.AddrPort) netip.AddrPort { return dst }})
	out := listener("virtualOutbound", "127.0.0.1:0")
	out.OriginalDst = true
	vip, port := listener("vip", "10.0.0.1:80"), listener("port", "0.0.0.0:80")
	vip.Bind, port.Bind = false, false
	b.update(t, out, vip, port)
	at := b.Addresses()[0]
	_, r := dial(t, at)
	says(t, r, "vip-chain")
	if a := recv(t, b.arrived); a.listener != "vip" || a.original != dst || a.info.Destination != dst {
		t.Errorf("%+v", a)
	}
	b.update(t, out, port)
	_, r = dial(t, at)
	says(t, r, "port-chain")
	b.update(t, out)
	_, r = dial(t, at)
	says(t, r, "virtualOutbound-chain")
}

func TestLimit(t *testing.T) {
	b := newBench(t, 1, Options{Limit: 2})
	b.update(t, listener("l", "127.0.0.1:0"))
	at := b.Addresses()[0]
	first, r := dial(t, at)
	says(t, r, "l-chain")
	_, r = dial(t, at)
	says(t, r, "l-chain")
	_, r = dial(t, at)
	if _, err := r.ReadByte(); err == nil {
		t.Error("above the limit")
	}
	first.Close()
	for {
		_, r = dial(t, at)
		if s, _ := r.ReadString('\n'); s == "l-chain\n" {
			break
		}
	}
	if _, over, _ := b.Counts(); over == 0 {
		t.Error("not counted")
	}
}

func TestSortedKeys(t *testing.T) {
	l := listener("l", "[::ffff:127.0.0.1]:80", "[::1]:80")
	if k := keys(l); !slices.Equal(k, []string{"127.0.0.1:80", "[::1]:80"}) {
		t.Errorf("%v", k)
	}
}
