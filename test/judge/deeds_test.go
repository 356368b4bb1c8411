package judge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// deed is something that a line of the table cannot say. It returns facts that
// Envoy and our proxy must agree on, and which hold of themselves.
type deed struct {
	name string
	do   func(t testing.TB, s *stage) string
	want string // what every proxy must give
}

// deeds are run in this order: the last ones leave limits and ejections behind.
var deeds = []deed{
	{"websocket, sidecar", func(t testing.TB, s *stage) string { return talk(s.local("misc", 80), "misc") }, "text: hello; binary: 70000 bytes; closed: StatusNormalClosure"},
	{"websocket, gateway", func(t testing.TB, s *stage) string { return talk(s.doors["gateway"].addr, "kinds.example") }, "text: hello; binary: 70000 bytes; closed: StatusNormalClosure"},
	{"bytes, sidecar", func(t testing.TB, s *stage) string { return bytesBack(s.local("misc", 9000)) }, "5000000 bytes back, then the end"},
	{"bytes, gateway", func(t testing.TB, s *stage) string { return bytesBack(s.edge(9000)) }, "5000000 bytes back, then the end"},
	{"server speaks first", func(t testing.TB, s *stage) string { return firstLine(s.local("misc", 9002)) }, "220 ready\n"},
	{"https", func(t testing.TB, s *stage) string { return s.https(t, "secure.example", nil, "h2", "http/1.1") }, "h2: 200 v1, client none"},
	{"https, HTTP/1.1", func(t testing.TB, s *stage) string { return s.https(t, "secure.example", nil, "http/1.1") }, "http/1.1: 200 v1, client none"},
	{"https, no ALPN", func(t testing.TB, s *stage) string { return s.https(t, "secure.example", nil) }, ": 200 v1, client none"},
	{"mutual TLS", func(t testing.TB, s *stage) string {
		p := s.ca.pair(t, "client.example")
		return s.https(t, "mutual.example", &p, "http/1.1")
	},
		`http/1.1: 200 v1, client Hash=(hash) Cert=true Subject="CN=client.example,O=Judge" URI= DNS=client.example`},
	{"mutual TLS without a certificate", func(t testing.TB, s *stage) string { return s.https(t, "mutual.example", nil, "http/1.1") }, "refused"},
	{"mutual TLS with a stranger's certificate", func(t testing.TB, s *stage) string {
		p := newAuthority(t).pair(t, "client.example")
		return s.https(t, "mutual.example", &p, "http/1.1")
	}, "refused"},
	{"unknown server name", func(t testing.TB, s *stage) string { return s.https(t, "nobody.example", nil) }, "refused"},
	{"TLS passes by its name", func(t testing.TB, s *stage) string { return s.passThrough(t) }, "pass.example says hello"},
	{"https redirect", func(t testing.TB, s *stage) string { return s.moved() }, "301 https://moved.example/x?y"},
	{"HTTP/2 in clear text, gateway", func(t testing.TB, s *stage) string { return clearHTTP2(s.doors["gateway"].addr) }, "HTTP/2.0 200"},
	{"grpc, sidecar", func(t testing.TB, s *stage) string { return grpcCases(t, s.local("misc", 9001), "misc:9001") }, grpcAll},
	{"grpc, gateway", func(t testing.TB, s *stage) string { return grpcCases(t, s.doors["gateway"].addr, "kinds.example") }, grpcAll},
	{"half and half, sidecar", func(t testing.TB, s *stage) string { return s.share("sidecar") }, "both, each at least 60 of 200"},
	{"half and half, gateway", func(t testing.TB, s *stage) string { return s.share("gateway") }, "both, each at least 60 of 200"},
	{"hash, sidecar", func(t testing.TB, s *stage) string { return s.sticky("sidecar") }, "each user has one backend, 2 backends are used"},
	{"hash, gateway", func(t testing.TB, s *stage) string { return s.sticky("gateway") }, "each user has one backend, 2 backends are used"},
	{"mirror", func(t testing.TB, s *stage) string { return s.mirrored() }, "POST kinds.example /mirror/x body copy"},
	{"rate limit, gateway", func(t testing.TB, s *stage) string {
		return s.paced("gateway", "/paced/edge?ann ann ann ann bob none none POST", "x-ratelimit-limit", "x-ratelimit-remaining")
	}, "200 3 2; 200 3 1; 200 3 0; 429 3 0 local_rate_limited, again later; 200 3 2; 200; 200; 200"},
	{"rate limit, sidecar", func(t testing.TB, s *stage) string {
		return s.paced("sidecar", "/paced/in/a?- - - POST", "x-ratelimit-limit") + " | " + s.paced("sidecar", "/paced/in/b?-", "x-ratelimit-limit") + " | " +
			s.paced("sidecar", "/paced/in?-", "x-ratelimit-limit")
	}, "200 2; 200 2; 429 2 local_rate_limited, again later; 429 2 local_rate_limited, again later | 200 2 | 200"},
	{"limits, sidecar", func(t testing.TB, s *stage) string { return s.overflow("sidecar") }, "200 x2, 503 overflow x3"},
	{"limits, gateway", func(t testing.TB, s *stage) string { return s.overflow("gateway") }, "200 x2, 503 overflow x3"},
	{"ejection, sidecar", func(t testing.TB, s *stage) string { return s.ejection("sidecar") }, "then 1 backend is left"},
	{"ejection, gateway", func(t testing.TB, s *stage) string { return s.ejection("gateway") }, "then 1 backend is left"},
}

// do runs every deed.
func do(t *testing.T, s *stage) {
	t.Helper()
	for _, d := range deeds {
		if got := d.do(t, s); got != d.want {
			t.Errorf("%s:\n%s", d.name, cmp.Diff(d.want, got))
		}
	}
}

// local is the socket that the client's sidecar has for a service port.
func (s *stage) local(service string, port int) netip.AddrPort {
	return s.sockets[fmt.Sprintf("%s.shop.svc.cluster.local:%d", service, port)]
}

// edge is where the gateway listens for a port.
func (s *stage) edge(port uint16) netip.AddrPort { return s.edges[port] }

// talk holds a WebSocket conversation.
func talk(at netip.AddrPort, host string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+at.String()+"/ws", &websocket.DialOptions{Host: host})
	if err != nil {
		return "dial: " + err.Error()
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 20)
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		return err.Error()
	}
	_, text, err := c.Read(ctx)
	if err != nil {
		return err.Error()
	}
	if err := c.Write(ctx, websocket.MessageBinary, make([]byte, 70000)); err != nil {
		return err.Error()
	}
	_, bin, err := c.Read(ctx)
	if err != nil {
		return err.Error()
	}
	status := websocket.StatusNormalClosure
	if err := c.Close(status, ""); err != nil {
		status = websocket.CloseStatus(err)
	}
	return fmt.Sprintf("text: %s; binary: %d bytes; closed: %v", text, len(bin), status)
}

// bytesBack sends much, ends its side, and reads what comes back.
func bytesBack(at netip.AddrPort) string {
	c, err := net.DialTimeout("tcp", at.String(), 20*time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	out := bytes.Repeat([]byte("0123456789"), 500_000)
	go func() {
		c.Write(out)
		c.(*net.TCPConn).CloseWrite()
	}()
	in, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	if sha256.Sum256(in) != sha256.Sum256(out) {
		return fmt.Sprintf("%d other bytes", len(in))
	}
	return fmt.Sprintf("%d bytes back, then the end", len(in))
}

func firstLine(at netip.AddrPort) string {
	c, err := net.DialTimeout("tcp", at.String(), 20*time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 10)
	if _, err := io.ReadFull(c, b); err != nil {
		return err.Error()
	}
	return string(b)
}

// https asks the gateway's TLS port.
func (s *stage) https(t testing.TB, host string, pair *tls.Certificate, alpn ...string) string {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig:   s.ca.client(t, host, pair, alpn...),
		DialContext:       s.dialEdge(443),
		ForceAttemptHTTP2: slices.Contains(alpn, "h2"),
	}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get("https://" + host + "/x")
	if err != nil {
		return "refused"
	}
	defer resp.Body.Close()
	saw, err := report(resp)
	if err != nil {
		return err.Error()
	}
	client := "none"
	// The gateway's own element comes first, the sidecar's follow.
	if x := strings.Split(strings.Join(saw.Headers["x-forwarded-client-cert"], ","), ",By=")[0]; strings.Contains(x, "Cert=") {
		client = ""
		for _, part := range strings.Split(x, ";") {
			k, v, _ := strings.Cut(part, "=")
			switch k {
			case "Hash":
				v = "(hash)"
			case "Cert":
				v = fmt.Sprint(strings.HasPrefix(v, `"-----BEGIN%20CERTIFICATE-----%0A`) && strings.HasSuffix(v, `-----END%20CERTIFICATE-----%0A"`))
			}
			client += " " + k + "=" + v
		}
		client = client[1:]
	}
	return fmt.Sprintf("%s: %d %s, client %s", resp.TLS.NegotiatedProtocol, resp.StatusCode, saw.Backend, client)
}

func (s *stage) dialEdge(port uint16) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", s.edge(port).String())
	}
}

// passThrough speaks TLS with the backend itself.
func (s *stage) passThrough(t testing.TB) string {
	c, err := tls.Dial("tcp", s.edge(443).String(), s.ca.client(t, "pass.example", nil))
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, "hello")
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s says %s", c.ConnectionState().PeerCertificates[0].DNSNames[0], b)
}

func (s *stage) moved() string {
	r := request{method: "GET", host: "moved.example", target: "/x?y"}
	a, err := r.send(door{addr: s.edge(81)}, "moved")
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", a.Status, strings.Join(a.Headers["location"], ","))
}

// clearHTTP2 asks with prior knowledge.
func clearHTTP2(at netip.AddrPort) string {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest("GET", "http://"+at.String()+"/half", nil)
	if err != nil {
		return err.Error()
	}
	req.Host = "kinds.example"
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	return fmt.Sprintf("%s %d", resp.Proto, resp.StatusCode)
}

const grpcAll = "empty unary: ok\nlarge unary: ok\nclient streaming: ok\nserver streaming: ok\nping pong: ok\nempty stream: ok\n" +
	"timeout: ok\ncancel after begin: ok\ncancel after first response: ok\ncustom metadata: ok\nstatus code and message: ok\n" +
	"special status message: ok\nunimplemented method: ok\n"

// grpcCases runs grpc's own interop client.
func grpcCases(t testing.TB, at netip.AddrPort, authority string) string {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+at.String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(authority))
	if err != nil {
		return err.Error()
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c := testgrpc.NewTestServiceClient(cc)
	var out strings.Builder
	for _, x := range []struct {
		name string
		do   func()
	}{
		{"empty unary", func() { interop.DoEmptyUnaryCall(ctx, c) }},
		{"large unary", func() { interop.DoLargeUnaryCall(ctx, c) }},
		{"client streaming", func() { interop.DoClientStreaming(ctx, c) }},
		{"server streaming", func() { interop.DoServerStreaming(ctx, c) }},
		{"ping pong", func() { interop.DoPingPong(ctx, c) }},
		{"empty stream", func() { interop.DoEmptyStream(ctx, c) }},
		{"timeout", func() { interop.DoTimeoutOnSleepingServer(ctx, c) }},
		{"cancel after begin", func() { interop.DoCancelAfterBegin(ctx, c) }},
		{"cancel after first response", func() { interop.DoCancelAfterFirstResponse(ctx, c) }},
		{"custom metadata", func() { interop.DoCustomMetadata(ctx, c) }},
		{"status code and message", func() { interop.DoStatusCodeAndMessage(ctx, c) }},
		{"special status message", func() { interop.DoSpecialStatusMessage(ctx, c) }},
		{"unimplemented method", func() { interop.DoUnimplementedMethod(ctx, cc) }},
	} {
		fmt.Fprintf(&out, "%s: %s\n", x.name, attempt(x.do))
	}
	return out.String()
}

// attempt catches what the interop client means to end the program with.
func attempt(f func()) (result string) {
	defer func() {
		if r := recover(); r != nil {
			result = fmt.Sprint(r)
		}
	}()
	f()
	return "ok"
}

// fatal makes grpc's fatal messages panics.
type fatal struct{ grpclog.LoggerV2 }

func (fatal) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (fatal) Fatalln(args ...any)               { panic(fmt.Sprint(args...)) }
func (fatal) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func init() { grpclog.SetLoggerV2(fatal{grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)}) }

// many asks a role n times; each gets its number.
func (s *stage) many(role string, n int, edit func(r *request, i int)) ([]*answer, error) {
	var out []*answer
	for i := range n {
		r := request{method: "GET", host: "kinds.example", target: "/half"}
		edit(&r, i)
		a, err := s.ask(r, role)
		if err != nil {
			return nil, err
		}
		if a.Echo == nil && a.Status == 200 {
			return nil, errors.New("no report")
		}
		out = append(out, a)
	}
	return out, nil
}

func (s *stage) share(role string) string {
	all, err := s.many(role, 200, func(*request, int) {})
	if err != nil {
		return err.Error()
	}
	n := map[string]int{}
	for _, a := range all {
		if a.Echo != nil {
			n[a.Echo.Backend]++
		}
	}
	if n["v1"] >= 60 && n["v2"] >= 60 {
		return "both, each at least 60 of 200"
	}
	return fmt.Sprint(n)
}

func (s *stage) sticky(role string) string {
	of := map[string]string{}
	used := map[string]bool{}
	all, err := s.many(role, 90, func(r *request, i int) {
		r.target = "/hashed"
		r.headers = [][2]string{{"x-user", fmt.Sprint("user", i%30)}}
	})
	if err != nil {
		return err.Error()
	}
	for i, a := range all {
		if a.Echo == nil {
			return fmt.Sprint("status ", a.Status)
		}
		user := fmt.Sprint(i % 30)
		if of[user] != "" && of[user] != a.Echo.Backend {
			return "user " + user + " met two backends"
		}
		of[user] = a.Echo.Backend
		used[a.Echo.Backend] = true
	}
	return fmt.Sprintf("each user has one backend, %d backends are used", len(used))
}

func (s *stage) mirrored() string {
	r := request{method: "POST", host: "kinds.example", target: "/mirror/x", body: "copy"}
	a, err := s.ask(r, "sidecar")
	if err != nil {
		return err.Error()
	}
	for _, e := range s.echos {
		if e.name != "plain" {
			continue
		}
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if l := e.requests(a.Key); len(l) > 0 {
				return fmt.Sprintf("%s %s %s body %s", l[0].Method, l[0].Host, l[0].URI, l[0].Body)
			}
		}
	}
	return "no copy came"
}

// overflow: one connection, one pending request; a request that
// is held takes the first, and of four more one waits and three are refused.
func (s *stage) overflow(role string) string {
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	refused := make(chan bool, 5)
	send := func(key string, headers ...[2]string) {
		r := request{method: "GET", host: "kinds.example", target: "/limited", headers: headers}
		a, err := r.send(s.doors[role], key)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			got[err.Error()]++
		case a.Status == 503 && strings.Contains(a.Text, "overflow") && a.Headers["x-envoy-overloaded"] != nil:
			got["503 overflow"]++
			refused <- true
		default:
			got[fmt.Sprint(a.Status)]++
		}
	}
	first := "slow-" + role
	wg.Go(func() { send(first, [2]string{"x-echo-held", "1"}) })
	limit := time.After(20 * time.Second)
	for end := time.Now().Add(20 * time.Second); len(s.misc.requests(first)) == 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	for i := range 4 {
		wg.Go(func() { send(fmt.Sprint(first, i)) })
	}
	for range 3 {
		select {
		case <-refused:
		case <-limit: // the verdict will show it
		}
	}
	s.misc.letGo <- struct{}{}
	wg.Wait()
	var out []string
	for k, n := range got {
		out = append(out, fmt.Sprintf("%s x%d", k, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// paced sends a request for each word of the query: of a user, of nobody (-,
// none), or by another method. It tells the answers with some of their fields.
func (s *stage) paced(role, target string, fields ...string) string {
	path, words, _ := strings.Cut(target, "?")
	var out []string
	for i, word := range strings.Fields(words) {
		r := request{method: "GET", host: "kinds.example", target: path + "?" + strconv.Itoa(i)}
		switch word {
		case "POST":
			r.method = word
		case "-", "none":
		default:
			r.headers = [][2]string{{"x-user", word}}
		}
		a, err := s.ask(r, role)
		if err != nil {
			return err.Error()
		}
		told := []string{strconv.Itoa(a.Status)}
		for _, f := range fields {
			told = append(told, a.Headers[f]...)
		}
		if a.Status == 429 {
			told = append(told, a.Text)
			// An hour for three, or for one: the next comes in more than a minute.
			if wait, _ := strconv.Atoi(strings.Join(a.Headers["retry-after"], "")); wait > 60 && wait <= 3600 {
				told[len(told)-1] += ", again later"
			}
		}
		out = append(out, strings.Join(told, " "))
	}
	return strings.Join(out, "; ")
}

// ejection: every copy fails; one is left out, never both.
func (s *stage) ejection(role string) string {
	_, err := s.many(role, 10, func(r *request, _ int) {
		r.target, r.headers = "/watched", [][2]string{{"x-echo-status", "500"}}
	})
	if err != nil {
		return err.Error()
	}
	left := map[string]bool{}
	for range 100 { // Envoy ejects on its main thread, which may be late
		all, err := s.many(role, 10, func(r *request, _ int) { r.target = "/watched" })
		if err != nil {
			return err.Error()
		}
		clear(left)
		for _, a := range all {
			if a.Echo == nil {
				return fmt.Sprint("status ", a.Status)
			}
			left[a.Echo.Backend] = true
		}
		if len(left) == 1 {
			break
		}
	}
	return fmt.Sprintf("then %d backend is left", len(left))
}

// report reads an echo's answer.
func report(resp *http.Response) (*seen, error) {
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return parseSeen(b)
}
