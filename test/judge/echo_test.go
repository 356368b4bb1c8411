package judge

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// seen is what a backend reports of a request, as the body of its answer.
type seen struct {
	Backend string
	Proto   string
	Method  string
	Host    string
	URI     string // as on the wire
	Headers map[string][]string
	Body    string
}

// echo is a backend that says what it saw, over HTTP/1 and HTTP/2 in clear
// text. Requests steer it by headers:
//
//	x-echo-status: 503      answer with this status
//	x-echo-fail: 2          the first two requests with this x-echo-key get x-echo-status
//	x-echo-delay: 200ms     wait before the answer
//	x-echo-held: 1          wait until the test lets one go
//	x-echo-set: a=b         set a response header
//	x-echo-size: 100000     a body of that many bytes instead of the report
//	x-echo-chunked: 1       its length is not told before
type echo struct {
	name string
	addr netip.AddrPort

	mu    sync.Mutex
	tries map[string]int
	log   map[string][]seen // by x-echo-key

	letGo chan struct{} // of those that are held, one each
}

func startEcho(t testing.TB, name string) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{letGo: make(chan struct{}, 1), name: name, addr: netip.MustParseAddrPort(l.Addr().String()), tries: map[string]int{}, log: map[string][]seen{}}
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: e, Protocols: &p}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return e
}

// ServeHTTP implements http.Handler.
func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("upgrade") == "websocket" {
		serveWebSocket(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	s := seen{Backend: e.name, Proto: r.Proto, Method: r.Method, Host: r.Host, URI: r.RequestURI, Body: string(body), Headers: map[string][]string{}}
	for k, v := range r.Header {
		s.Headers[strings.ToLower(k)] = v
	}
	for k, v := range r.Trailer {
		s.Headers["trailer "+strings.ToLower(k)] = v
	}
	status := http.StatusOK
	if n, err := strconv.Atoi(r.Header.Get("x-echo-status")); err == nil {
		status = n
	}
	key := r.Header.Get("x-echo-key")
	e.mu.Lock()
	e.log[key] = append(e.log[key], s)
	e.tries[key]++
	if n, err := strconv.Atoi(r.Header.Get("x-echo-fail")); err == nil && e.tries[key] > n {
		status = http.StatusOK
	}
	e.mu.Unlock()
	if d, err := time.ParseDuration(r.Header.Get("x-echo-delay")); err == nil {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			return
		}
	}
	if r.Header.Get("x-echo-held") != "" {
		select {
		case <-e.letGo:
		case <-r.Context().Done():
			return
		}
	}
	for _, h := range r.Header.Values("x-echo-set") {
		k, v, _ := strings.Cut(h, "=")
		w.Header().Add(k, v)
	}
	if n, err := strconv.Atoi(r.Header.Get("x-echo-size")); err == nil {
		chunked := r.Header.Get("x-echo-chunked") != ""
		if !chunked {
			w.Header().Set("content-length", strconv.Itoa(n))
		}
		w.WriteHeader(status)
		if chunked {
			w.(http.Flusher).Flush()
		}
		io.Copy(w, io.LimitReader(zeros{}, int64(n)))
		return
	}
	out, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("BUG: %v", err))
	}
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	if status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified {
		w.Write(out)
	}
}

// requests with a key, in the order in which they came.
func (e *echo) requests(key string) []seen {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]seen(nil), e.log[key]...)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}
