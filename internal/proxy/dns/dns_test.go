package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// mesh is a table with a bit of everything.
func mesh() *conf.NameTable {
	many := make([]netip.Addr, 200)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
	}
	return &conf.NameTable{Hosts: map[string]*conf.NameInfo{
		"reviews.shop.svc.cluster.local":  {Addresses: addrs("240.240.0.1"), Short: "reviews", Namespace: "shop"},
		"reviews.other.svc.cluster.local": {Addresses: addrs("240.240.0.2", "fd00::2"), Short: "reviews", Namespace: "other"},
		"users.other.svc.cluster.local":   {Addresses: addrs("240.240.0.3"), Short: "users", Namespace: "other"},
		"many.shop.svc.cluster.local":     {Addresses: many, Short: "many", Namespace: "shop"},
		"*.wild.example":                  {Addresses: addrs("240.240.0.4")},
		"api.example.com":                 {Addresses: addrs("240.240.0.5")},
	}}
}

// upstream is another resolver: it answers all names below "example" with
// 192.0.2.1, after an answer that a stranger sent.
func upstream(t *testing.T) netip.AddrPort {
	t.Helper()
	answer := func(b []byte) []byte {
		q, ok := parse(b)
		if !ok {
			return nil
		}
		code := dnsmessage.RCodeSuccess
		if !strings.HasSuffix(q.name, "example") {
			code = dnsmessage.RCodeNameError
		}
		return reply(q, code, addrs("192.0.2.1"), true)
	}
	u, l := both(t, "127.0.0.1")
	t.Cleanup(func() { u.Close(); l.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			out := answer(b[:n])
			wrong := slices.Clone(out)
			wrong[0] ^= 1 // not the number of the question
			_, _ = u.WriteTo(wrong, from)
			_, _ = u.WriteTo([]byte("x"), from)
			_, _ = u.WriteTo(out, from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if b, err := readMessage(c); err == nil {
				_ = writeMessage(c, answer(b))
			}
			_ = c.Close()
		}
	}()
	return netip.MustParseAddrPort(u.LocalAddr().String())
}

// both opens a port for UDP and TCP. A port that is free for one may be the
// other's, of a connection that went out.
func both(t *testing.T, host string) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 100 {
		u, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		if l, err := net.Listen("tcp", u.LocalAddr().String()); err == nil {
			return u, l
		}
		_ = u.Close()
	}
	t.Fatal("no port is free for both")
	return nil, nil
}

// serve runs a server and returns a resolver that asks it.
func serve(t *testing.T, host string, up ...netip.AddrPort) (*Server, *net.Resolver, string) {
	t.Helper()
	s := New(Options{Namespace: "shop", Resolvers: func() []netip.AddrPort { return up }})
	u, l := both(t, host)
	at := u.LocalAddr().String()
	done := make(chan struct{}, 2)
	go func() { s.Packets(u); done <- struct{}{} }()
	go func() { s.Streams(l); done <- struct{}{} }()
	t.Cleanup(func() {
		u.Close()
		l.Close()
		<-done
		<-done
	})
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, at)
	}}
	return s, r, at
}

func TestNames(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		s, r, _ := serve(t, host, upstream(t))
		s.Update(mesh())
		for name, want := range map[string]string{
			"reviews.":                         "240.240.0.1",
			"REVIEWS.shop.":                    "240.240.0.1",
			"reviews.shop.svc.":                "240.240.0.1",
			"reviews.shop.svc.cluster.local.":  "240.240.0.1",
			"reviews.other.":                   "240.240.0.2 fd00::2",
			"users.other.svc.cluster.local.":   "240.240.0.3",
			"a.b.wild.example.":                "240.240.0.4",
			"api.example.com.":                 "240.240.0.5",
			"users.shop.svc.cluster.local.":    "no such host", // and nobody else is asked
			"wild.example.":                    "192.0.2.1",
			"elsewhere.example.":               "192.0.2.1",
			"users.":                           "no such host",
			"nothing.invalid.":                 "no such host",
			"localhost.":                       "127.0.0.1 ::1",
			"reviews.shop.svc.cluster.local.x": "no such host",
		} {
			got := look(r, name)
			if got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		if a, f, bad := s.Counts(); a == 0 || f == 0 || bad != 0 {
			t.Errorf("counted %d answered, %d forwarded, %d failed", a, f, bad)
		}
	}
}

func look(r *net.Resolver, name string) string {
	list, err := r.LookupHost(context.Background(), name)
	var d *net.DNSError
	if errors.As(err, &d) {
		return d.Err
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// exchange sends one packet and reads the answer.
func exchange(t *testing.T, at string, m dnsmessage.Message) dnsmessage.Message {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 65536)
	n, err := c.Read(in)
	if err != nil {
		t.Fatal(err)
	}
	var out dnsmessage.Message
	if err := out.Unpack(in[:n]); err != nil {
		t.Fatal(err)
	}
	if out.ID != m.ID || !out.Response || len(out.Questions) != 1 || out.Questions[0] != m.Questions[0] {
		t.Errorf("answer to %v: %+v", m.Questions, out.Header)
	}
	return out
}

func query(name string, typ dnsmessage.Type) dnsmessage.Message {
	return dnsmessage.Message{Header: dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}}}
}

// TestShape looks at answers that the resolver above hides.
func TestShape(t *testing.T) {
	s, r, at := serve(t, "127.0.0.1")
	if out := exchange(t, at, query("reviews.shop.svc.cluster.local.", dnsmessage.TypeA)); out.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("before the names are known: %v", out.RCode)
	}
	s.Update(mesh())
	out := exchange(t, at, query("reviews.shop.svc.cluster.local.", dnsmessage.TypeAAAA))
	if out.RCode != dnsmessage.RCodeSuccess || len(out.Answers) != 0 || !out.Authoritative || !out.RecursionAvailable {
		t.Errorf("a name without IPv6: %+v", out.Header)
	}
	for _, typ := range []dnsmessage.Type{dnsmessage.TypeTXT, dnsmessage.TypeMX, 65} {
		if out := exchange(t, at, query("reviews.", typ)); out.RCode != dnsmessage.RCodeSuccess || len(out.Answers) != 0 {
			t.Errorf("type %v: %+v", typ, out)
		}
	}
	plain := exchange(t, at, query("many.", dnsmessage.TypeA))
	q := query("many.", dnsmessage.TypeA)
	var h dnsmessage.ResourceHeader
	if err := h.SetEDNS0(4096, dnsmessage.RCodeSuccess, false); err != nil {
		t.Fatal(err)
	}
	q.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	big := exchange(t, at, q)
	if !plain.Truncated || !big.Truncated || len(plain.Answers) == 0 || len(big.Answers) <= len(plain.Answers) || len(plain.Additionals) != 0 || len(big.Additionals) != 1 {
		t.Errorf("truncation: %d answers, with EDNS %d", len(plain.Answers), len(big.Answers))
	}
	if n := len(strings.Fields(look(r, "many."))); n != 200 { // the resolver asks again by TCP
		t.Errorf("by TCP %d addresses", n)
	}
	q = query("reviews.", dnsmessage.TypeA)
	q.OpCode = 4
	if out := exchange(t, at, q); out.RCode != dnsmessage.RCodeNotImplemented {
		t.Errorf("another operation: %v", out.RCode)
	}
	if out := exchange(t, at, query("elsewhere.example.", dnsmessage.TypeA)); out.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("without any other resolver: %v", out.RCode)
	}
}

// TestSecond asks the next resolver when one is not there, and fails when none is.
func TestSecond(t *testing.T) {
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddrPort(gone.LocalAddr().String())
	_ = gone.Close()
	_, r, _ := serve(t, "127.0.0.1", nobody, upstream(t))
	if got := look(r, "elsewhere.example."); got != "192.0.2.1" {
		t.Error(got)
	}
	_, r, _ = serve(t, "127.0.0.1", nobody)
	if got := look(r, "elsewhere.example."); !strings.Contains(got, "server misbehaving") {
		t.Error(got)
	}
}

func TestResolvers(t *testing.T) {
	text := "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver bad\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n"
	if got := fmt.Sprint(resolvers(text)); got != "[10.0.0.1:53 [fe80::1%eth0]:53 10.0.0.3:53]" {
		t.Error(got)
	}
	if got := fmt.Sprint(resolvers("")); got != "[127.0.0.1:53]" {
		t.Error(got)
	}
}

// FuzzMessage: whatever comes, an answer is a message about the same question,
// and fits.
func FuzzMessage(f *testing.F) {
	for _, name := range []string{"reviews.", "many.shop.", "x.svc.cluster.local.", "a.wild.example."} {
		m := query(name, dnsmessage.TypeA)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	s := New(Options{Namespace: "shop", Resolvers: func() []netip.AddrPort { return nil }})
	s.Update(mesh())
	f.Fuzz(func(t *testing.T, b []byte) {
		q, ok := parse(b)
		if !ok {
			return
		}
		for _, stream := range []bool{false, true} {
			out := s.local(q, stream)
			if out == nil {
				out = s.fail(q)
			}
			if !stream && len(out) > max(q.size, maxPlain) {
				t.Fatalf("%d bytes for %d", len(out), q.size)
			}
			if !answers(out, q.header.ID, q) {
				t.Fatalf("%x is no answer to %x", out, b)
			}
		}
	})
}

// Where the resolvers know the cluster's names too, they are asked for all that
// is no address of the table.
func TestElsewhere(t *testing.T) {
	up := upstream(t)
	s := New(Options{Namespace: "shop", Elsewhere: true, Resolvers: func() []netip.AddrPort { return []netip.AddrPort{up} }})
	ask := func(name string, kind dnsmessage.Type) (local bool) {
		t.Helper()
		b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
		for _, err := range []error{b.StartQuestions(), b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET})} {
			if err != nil {
				t.Fatal(err)
			}
		}
		raw, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		q, ok := parse(raw)
		if !ok {
			t.Fatal("no question")
		}
		return s.local(q, false) != nil
	}
	if ask("reviews.shop.svc.cluster.local.", dnsmessage.TypeA) {
		t.Error("without a table the cluster's resolver knows best")
	}
	s.Update(mesh())
	for name, want := range map[string]bool{"reviews.shop.svc.cluster.local.": true, "localhost.": true,
		"pod-0.db.shop.svc.cluster.local.": false, "cluster.local.": false, "elsewhere.example.": false} {
		if got := ask(name, dnsmessage.TypeA); got != want {
			t.Errorf("%s is answered here: %t, want %t", name, got, want)
		}
	}
	if ask("reviews.shop.svc.cluster.local.", dnsmessage.TypeSRV) {
		t.Error("records of another type are not ours to deny")
	}
}
