package strict

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

const patience = 30 * time.Second

// backend is a program that reads requests in its own manner. It answers each,
// says in the answer what it saw, and keeps all bytes it got.
type backend struct {
	addr string
	r    reader

	mu    sync.Mutex
	saw   []string
	conns []*bytes.Buffer
}

func newBackend(t testing.TB, r reader) *backend {
	t.Helper()
	k := &backend{r: r}
	k.addr = listen(t, k.serve)
	return k
}

// serve answers the requests of a connection. What the manner cannot read it
// does not answer, as if it waited for more.
func (k *backend) serve(c net.Conn) {
	got := new(bytes.Buffer)
	k.mu.Lock()
	k.conns = append(k.conns, got)
	k.mu.Unlock()
	used, p := 0, make([]byte, 64<<10)
	for {
		n, err := c.Read(p)
		k.mu.Lock()
		got.Write(p[:n])
		var answers []byte
		for used < got.Len() {
			s, n, bad := k.r.next(got.Bytes()[used:])
			if bad != nil || n == 0 {
				break
			}
			used += n
			k.saw = append(k.saw, s.String())
			answers = fmt.Appendf(answers, "HTTP/1.1 200 OK\r\nx-saw: %q\r\ncontent-length: 0\r\n\r\n", s.String())
		}
		k.mu.Unlock()
		if _, werr := c.Write(answers); err != nil || werr != nil {
			return
		}
	}
}

// take returns the requests since the last call.
func (k *backend) take() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.saw
	k.saw = nil
	return s
}

// agree compares what all readers make of all that was forwarded.
func (k *backend) agree(t *testing.T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		want, err := readAll(strict{}, c.Bytes())
		if err != nil {
			t.Errorf("what is forwarded is not strictly right: %v in\n%q", err, c)
		}
		for _, l := range lenients {
			if got, err := readAll(l, c.Bytes()); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s reads %q, %v\nstrict %q\nof %q", l.name, got, err, want, c)
			}
		}
	}
}

// verdict is what a client hears: what the program says it saw, then perhaps a
// status that is not 200, and "close" when the connection ends before /next.
func verdict(t *testing.T, addr string, send []byte) []string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	go func() { // it may be refused while it is sent
		_, _ = c.Write(append(bytes.Clone(send), "GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"...))
	}()
	var heard []string
	in := bufio.NewReader(c)
	for {
		if _, err := in.Peek(1); err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				return append(heard, "silence")
			}
			return append(heard, "close")
		}
		r, err := http.ReadResponse(in, &http.Request{Method: "HEAD"})
		if err != nil {
			return append(heard, err.Error())
		}
		if r.StatusCode != 200 {
			if _, err := io.CopyN(io.Discard, in, max(r.ContentLength, 0)); err != nil {
				return append(heard, err.Error())
			}
			if _, err := in.Peek(1); err == io.EOF {
				return append(heard, strconv.Itoa(r.StatusCode))
			}
			heard = append(heard, strconv.Itoa(r.StatusCode)+" open")
			continue
		}
		s, err := strconv.Unquote(r.Header.Get("x-saw"))
		if err != nil {
			return append(heard, fmt.Sprintf("x-saw %q", r.Header.Get("x-saw")))
		}
		if s == "GET a /next" {
			return heard
		}
		heard = append(heard, s)
	}
}

// topologies are one proxy, and two with mTLS, with the bridge and without.
func topologies(t *testing.T, test func(t *testing.T, start func(app string) string)) {
	for name, start := range map[string]func(t *testing.T, app string) string{
		"plain": func(t *testing.T, app string) string {
			return proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(app), nil)).Addr
		},
		"bridged": func(t *testing.T, app string) string {
			return proxytest.NewMesh(t, app, proxytest.Options{}).Client.Addr
		},
		"not bridged": func(t *testing.T, app string) string {
			return proxytest.NewMesh(t, app, proxytest.Options{NoBridge: true}).Client.Addr
		},
	} {
		t.Run(name, func(t *testing.T) { test(t, func(app string) string { return start(t, app) }) })
	}
}

// TestDesync sends the vectors to proxies in front of a strict and of a lenient
// program. The programs see the same requests, and so does whoever reads what
// was forwarded in any other manner.
func TestDesync(t *testing.T) {
	all := vectors(t, "testdata/http1.txt")
	topologies(t, func(t *testing.T, start func(string) string) {
		for name, r := range map[string]reader{"strict": strict{}, "lenient": everything} {
			t.Run(name, func(t *testing.T) {
				k := newBackend(t, r)
				addr := start(k.addr)
				for _, v := range all {
					heard := verdict(t, addr, v.send)
					if !slices.Equal(heard, v.want) {
						t.Errorf("%s, %s:\n got %q\nwant %q", v.class, v.name, heard, v.want)
					}
					probe(t, k, addr, v)
				}
				k.agree(t)
			})
		}
	})
	if len(all) < 150 {
		t.Errorf("%d vectors", len(all))
	}
}

// probe sends a request of another client and looks at what the program saw
// of the vector before it.
func probe(t *testing.T, k *backend, addr string, v *vector) {
	t.Helper()
	if heard := verdict(t, addr, []byte("GET /probe HTTP/1.1\r\nhost: a\r\n\r\n")); !slices.Equal(heard, []string{"GET a /probe"}) {
		t.Errorf("after %s, %s another client hears %q", v.class, v.name, heard)
	}
	var want []string
	last := v.want[len(v.want)-1]
	for _, w := range v.want {
		if strings.Count(w, " ") > 1 {
			want = append(want, w)
		}
	}
	if strings.Contains(last, " ") {
		want = append(want, "GET a /next")
	}
	if want = append(want, "GET a /probe", "GET a /next"); !slices.Equal(k.take(), want) {
		t.Errorf("%s, %s: the program saw something else than %q", v.class, v.name, want)
	}
}
