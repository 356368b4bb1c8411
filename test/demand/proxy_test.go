package demand

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy"
	upstream "github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/listen"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// backend says its name to whoever comes, over HTTP/1, HTTP/2, TLS or plain TCP.
type backend struct {
	name, addr string
}

func newBackend(t testing.TB, name string) *backend {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{name: name, addr: l.Addr().String()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secure := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	web := make(chan net.Conn)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s%s", name, body)
	})}
	go func() { _ = s.Serve(&queue{l.Addr(), web}) }()
	t.Cleanup(func() { _ = l.Close(); _ = s.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(web)
				return
			}
			go b.greet(c, secure, web)
		}
	}()
	return b
}

// greet looks at the first byte: of a TLS handshake, of a request, "x" for its
// name, or "e" for an echo.
func (b *backend) greet(c net.Conn, secure *tls.Config, web chan net.Conn) {
	r := bufio.NewReader(c)
	first, err := r.Peek(1)
	if err != nil {
		_ = c.Close()
		return
	}
	peeked := &peekedConn{c, r}
	switch first[0] {
	case 'x':
		_, _ = r.Discard(r.Buffered()) // or the end is a reset
		_, _ = io.WriteString(c, b.name)
		_ = c.Close()
	case 'e':
		_, _ = io.Copy(c, r)
		_ = c.Close()
	case 22:
		x := tls.Server(peeked, secure)
		_, _ = io.WriteString(x, b.name)
		_ = x.CloseWrite()
		_, _ = io.Copy(io.Discard, c) // or the end is a reset
		_ = c.Close()
	default:
		defer func() { _ = recover() }() // the test is over
		web <- peeked
	}
}

type peekedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *peekedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// queue is a net.Listener of connections that were accepted elsewhere.
type queue struct {
	at net.Addr
	in chan net.Conn
}

func (q *queue) Accept() (net.Conn, error) {
	c, ok := <-q.in
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (q *queue) Close() error   { return nil }
func (q *queue) Addr() net.Addr { return q.at }

// sidecar is a whole proxy; connections of its program are captured.
type sidecar struct {
	*proxy.Fixed
	t       testing.TB
	outside string // where what passes ends
	ends    *ends  // where everything ends, when it is set

	mu   sync.Mutex
	out  string                    // where captured connections go
	from map[uint16]netip.AddrPort // where connections were going, by their source port

	names net.PacketConn // where it asks for names
}

func newSidecar(t testing.TB, boot proxy.Bootstrap, outside string) *sidecar {
	t.Helper()
	s := &sidecar{t: t, outside: outside, from: map[uint16]netip.AddrPort{}}
	if boot.Concurrency == 0 {
		boot.Concurrency = 2
	}
	boot.ID = "sidecar"
	var err error
	if s.names, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.Fixed, err = proxy.NewFed(&boot, slog.New(slog.NewTextHandler(io.Discard, nil)), &proxy.Place{Open: s.open, Original: s.original, Dial: s.dial, Names: s.names})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	return s
}

// end stops the proxy; a second time does nothing.
func (s *sidecar) end() {
	f := s.Fixed
	if s.Fixed = nil; f == nil {
		return
	}
	_ = s.names.Close()
	if n := f.Panics(); n > 0 {
		s.t.Errorf("%d internal errors", n)
	}
	if err := f.Close(); err != nil {
		s.t.Error(err)
	}
}

// open opens another port than the one that is wanted.
func (s *sidecar) open(at netip.AddrPort) (int, error) {
	fd, err := listen.Open(netip.MustParseAddrPort("127.0.0.1:0"))
	if err == nil && at.Port() == 15001 {
		s.mu.Lock()
		s.out = loop.LocalAddr(fd).String()
		s.mu.Unlock()
	}
	return fd, err
}

func (s *sidecar) original(fd int, _ netip.AddrPort) netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from[loop.RemoteAddr(fd).Port()]
}

// dial lets what passes end outside.
func (s *sidecar) dial(l *loop.Loop, c *conf.Cluster, ep *upstream.Endpoint, o loop.DialOptions) (*loop.Conn, error) {
	if s.ends != nil {
		return l.Dial(s.ends.at(c.Name, ep.Addr), o)
	}
	if c.Type == conf.ClusterOriginalDst {
		return l.Dial(netip.MustParseAddrPort(s.outside), o)
	}
	return nil, nil
}

// ready waits until connections are captured.
func (s *sidecar) ready() *sidecar {
	s.t.Helper()
	s.wait("captured connections are accepted", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.out != "" && len(s.Addresses()) > 0 && len(s.Snapshot().Listeners) > 0
	})
	return s
}

// wait waits for what must come.
func (s *sidecar) wait(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// connect is what the program does; the connection is captured.
func (s *sidecar) connect(to string) (net.Conn, error) {
	s.mu.Lock()
	at := s.out
	s.mu.Unlock()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) {
			if err = unix.Bind(int(fd), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err == nil {
				s.mu.Lock()
				s.from[loop.LocalAddr(int(fd)).Port()] = netip.MustParseAddrPort(to)
				s.mu.Unlock()
			}
		}); e != nil {
			return e
		}
		return err
	}}
	c, err := d.Dial("tcp", at)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// tcp is what answers at an address; empty: nobody does.
func (s *sidecar) tcp(to string) string {
	s.t.Helper()
	c, err := s.connect(to)
	if err != nil {
		return "" // closed before we have seen it stand
	}
	defer c.Close()
	_, _ = io.WriteString(c, "x\r\n\r\n")
	b, _ := io.ReadAll(c)
	return string(b)
}

// echo is what comes back of what is sent at once, and the end.
func (s *sidecar) echo(to string, what []byte) []byte {
	s.t.Helper()
	c, err := s.connect(to)
	if err != nil {
		return nil
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(what)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	b, _ := io.ReadAll(c)
	return b
}

// sni is what answers TLS at an address.
func (s *sidecar) sni(to, name string) string {
	s.t.Helper()
	c, err := s.connect(to)
	if err != nil {
		return ""
	}
	x := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	defer x.Close()
	b, _ := io.ReadAll(x)
	return string(b)
}

// resolve is what a program is told of a name: all its addresses.
func (s *sidecar) resolve(name string) string {
	s.t.Helper()
	c, err := net.Dial("udp", s.names.LocalAddr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	var out []string
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		q := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(strings.TrimSuffix(name, ".") + "."), Type: kind, Class: dnsmessage.ClassINET}}}
		b, err := q.Pack()
		if err != nil {
			s.t.Fatal(err)
		}
		buf := make([]byte, 4096)
		if _, err = c.Write(b); err != nil {
			s.t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil {
			s.t.Fatal(err)
		}
		var a dnsmessage.Message
		if err := a.Unpack(buf[:n]); err != nil {
			s.t.Fatal(err)
		}
		for _, r := range a.Answers {
			switch x := r.Body.(type) {
			case *dnsmessage.AResource:
				out = append(out, netip.AddrFrom4(x.A).String())
			case *dnsmessage.AAAAResource:
				out = append(out, netip.AddrFrom16(x.AAAA).String())
			}
		}
		if len(a.Answers) == 0 {
			out = append(out, a.RCode.String())
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// get is the status and the body of a request on a connection of its own.
func (s *sidecar) get(to, host string) string { return s.request(to, host, false) }

func (s *sidecar) request(to, host string, h2 bool) string {
	s.t.Helper()
	var p http.Protocols
	p.SetHTTP1(!h2)
	p.SetUnencryptedHTTP2(h2)
	tr := &http.Transport{Protocols: &p, Dial: func(_, _ string) (net.Conn, error) { return s.connect(to) }}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequest("POST", "http://"+host+"/", strings.NewReader("!"))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return "error"
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "error"
	}
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(b), " ", resp.Header.Get("x-by")))
}

// metric is a counter or gauge of the proxy.
func (s *sidecar) metric(name string) int {
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(s.Metrics())
	if m == nil {
		s.t.Fatalf("there is no metric %s", name)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return int(n)
}

// flags counts requests and connections by status and flags.
func (s *sidecar) flags() map[string]int {
	out := map[string]int{}
	for line := range strings.Lines(s.Metrics()) {
		name, labels, _ := strings.Cut(strings.TrimSpace(line), "{")
		flag := label(labels, "response_flags")
		if name != "istio_requests_total" && name != "istio_tcp_connections_closed_total" || flag == "-" {
			continue
		}
		n, _ := strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1 : len(line)-1])
		out[label(labels, "response_code")+" "+flag] += n
	}
	return out
}

func label(labels, name string) string {
	_, v, _ := strings.Cut(labels, name+`="`)
	v, _, _ = strings.Cut(v, `"`)
	return v
}

// lookups is what was learnt, for messages.
func (s *sidecar) lookups() string {
	var b strings.Builder
	known := s.Learnt()
	if known == nil {
		return "nothing is looked up"
	}
	fmt.Fprintf(&b, "prefixes %v, ports %v\n", known.Index.Prefixes, known.Index.Ports)
	for q, a := range known.All() {
		to := "none"
		switch {
		case a.Listener != nil:
			to = a.Listener.Name
		case a.Routes != nil:
			to = a.Routes.Name
		case a.Host != nil:
			to = fmt.Sprint(a.Host.Addresses)
		}
		fmt.Fprintf(&b, "%s %s: %s\n", q.Kind, q.Name, to)
	}
	return b.String()
}

// is compares what came with what should have.
func (s *sidecar) is(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// countOf sums the series that match.
func countOf(metrics, series string) (n int) {
	for _, m := range regexp.MustCompile(`(?m)^`+series+` (\d+)$`).FindAllStringSubmatch(metrics, -1) {
		v, _ := strconv.Atoi(m[1])
		n += v
	}
	return n
}

// exchange is the status of one request on a connection that stays.
func exchange(t testing.TB, c net.Conn, in *bufio.Reader, host string) string {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nhost: %s\r\n\r\n", host); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(resp.StatusCode)
}
