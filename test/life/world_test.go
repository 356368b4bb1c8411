package life

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/test/port"
)

func TestMain(m *testing.M) { Main(m) }

// edge is a gateway before one backend: HTTP at port 80, bytes at port 9000.
const edge = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: backend, namespace: shop}
spec:
  hosts: [backend.shop]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: %[2]s}, {number: 9000, name: tcp, protocol: TCP}]
  endpoints: [{address: 127.0.0.1, ports: {http: %[1]s, tcp: %[1]s}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: edge}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: all, namespace: shop}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{route: [{destination: {host: backend.shop, port: {number: 80}}}], timeout: 0s, retries: {attempts: 0}}]
  tcp: [{match: [{port: 9000}], route: [{destination: {host: backend.shop, port: {number: 9000}}}]}]
`

func edgeYAML(backend, protocol string) string {
	_, port, _ := net.SplitHostPort(backend)
	return fmt.Sprintf(edge, port, protocol)
}

// gateway is a node whose HTTP and TCP doors stand before a backend.
type gateway struct {
	*Node
	place     *Place
	http, tcp string
}

func newGateway(t testing.TB, backend, protocol string) *gateway {
	t.Helper()
	p := New(t, edgeYAML(backend, protocol), "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT% %RESPONSE_CODE_DETAILS%\n")
	n := p.Join(control.WorkloadSpec{Namespace: "shop", Name: "edge", Account: "edge", Labels: map[string]string{"istio": "edge"}, Gateway: true,
		Ports: []control.PortSpec{{Port: 80, Listen: port.Free(t)}, {Port: 9000, Listen: port.Free(t)}}})
	g := &gateway{Node: n, place: p}
	for _, x := range n.Ports {
		if x.Port == 80 {
			g.http = x.Listen.String()
		} else {
			g.tcp = x.Listen.String()
		}
	}
	return g
}

// web is an HTTP backend: HTTP/1 and, with prior knowledge, HTTP/2.
func web(t testing.TB, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(f)
	s.Config.Protocols = &http.Protocols{}
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.Listener.Addr().String()
}

// echo answers with what it got.
func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	_, _ = w.Write(b)
}

// bytesBackend runs serve for every connection.
func bytesBackend(t testing.TB, serve func(c net.Conn, in *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			go func() { defer c.Close(); serve(c, bufio.NewReader(c)) }()
		}
	}()
	return l.Addr().String()
}

// client is HTTP without retries: Go sends a POST once.
func client(t testing.TB, h2 bool) *http.Client {
	tr := &http.Transport{Protocols: &http.Protocols{}, MaxIdleConnsPerHost: 1000}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func post(c *http.Client, addr, body string) error { return postTo(c, "http://"+addr+"/", body) }

func postTo(c *http.Client, url, body string) error {
	r, err := c.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	switch {
	case err != nil:
		return err
	case r.StatusCode != 200 || string(b) != body:
		return fmt.Errorf("%d %.200q", r.StatusCode, b)
	}
	return nil
}

// raw is an HTTP/1 client that sends one request after the other on a
// connection until it is told to close it, and takes every failure as one.
type raw struct {
	addr string
	conn net.Conn
	in   *bufio.Reader
	uses int // of connections
}

func (r *raw) post(body string) error {
	if r.conn == nil {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(2 * patience))
		r.conn, r.in, r.uses = c, bufio.NewReader(c), r.uses+1
	}
	if _, err := fmt.Fprintf(r.conn, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s", len(body), body); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r.in, nil)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != 200 || string(b) != body) {
		err = fmt.Errorf("%d %.200q", resp.StatusCode, b)
	}
	if resp.Close || err != nil {
		_ = r.conn.Close()
		r.conn = nil
	}
	return err
}

// load sends requests from several clients of each kind until stop.
type load struct {
	done   atomic.Int64
	mu     sync.Mutex
	failed []string
	stop   chan struct{}
	once   sync.Once // of stop
	wg     sync.WaitGroup
}

func startLoad(t testing.TB, addr string, h1, h2 int, pause time.Duration) *load {
	l := &load{stop: make(chan struct{})}
	run := func(send func(string) error) {
		l.wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				if err := send("body " + strconv.Itoa(i)); err != nil {
					l.mu.Lock()
					l.failed = append(l.failed, err.Error())
					l.mu.Unlock()
				}
				l.done.Add(1)
				time.Sleep(pause)
			}
		})
	}
	for range h1 {
		r := &raw{addr: addr}
		run(r.post)
	}
	for range h2 {
		c := client(t, true)
		run(func(b string) error { return post(c, addr, b) })
	}
	return l
}

func (l *load) end(t testing.TB) {
	t.Helper()
	l.once.Do(func() { close(l.stop) })
	l.wg.Wait()
	for i, f := range l.failed {
		if i < 10 {
			t.Error(f)
		}
	}
	if len(l.failed) > 0 {
		t.Errorf("%d of %d requests failed", len(l.failed), l.done.Load())
	}
}

// stdout has a process write to w.
func stdout(w io.Writer) func(*exec.Cmd) { return func(c *exec.Cmd) { c.Stdout = w } }

// lines of a log.
func lines(b *output) []string {
	return strings.Split(strings.TrimSpace(b.String()), "\n")
}
