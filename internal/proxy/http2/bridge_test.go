package http2

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/tulle-mesh/tulle/internal/proxy/http1"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

// bridge serves HTTP/1, carries it as HTTP/2 streams over one connection
// (unless direct), and forwards as HTTP/1 to addr. It returns where it listens.
func bridge(t testing.TB, addr string, direct bool) string {
	l := streamtest.NewLoop()
	h1 := new(http1.Set)
	var idle []*http1.Client
	var all []*http1.Client
	co := &http1.ClientOptions{Set: h1, OnIdle: func(c *http1.Client) { idle = append(idle, c) }}
	co.OnGone = func(c *http1.Client, _ error) {
		for i, x := range idle {
			if x == c {
				idle = append(idle[:i], idle[i+1:]...)
				return
			}
		}
	}
	back := &forwarder{open: func(p stream.Peer) stream.Stream {
		if n := len(idle); n > 0 {
			c := idle[n-1]
			idle = idle[:n-1]
			return c.Start(p)
		}
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			panic(err)
		}
		var c *http1.Client
		l.Attach(nc, func(w stream.Wire) stream.Codec { c = http1.NewClient(w, co); return c })
		all = append(all, c)
		return c.Start(p)
	}}
	front := back
	var up *Client
	if !direct {
		inner := listen(t)
		h2 := new(Set)
		l.Listen(inner, func(w stream.Wire) stream.Codec { return NewServer(w, back, &ServerOptions{Set: h2}) })
		nc, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ready := make(chan struct{})
		var once sync.Once
		l.Serve(nc, func(w stream.Wire) stream.Codec {
			up = NewClient(w, &ClientOptions{Set: h2, OnCapacity: func(*Client) { once.Do(func() { close(ready) }) }})
			return up
		})
		<-ready
		front = &forwarder{open: func(p stream.Peer) stream.Stream { return up.Open(p) }}
	}
	ln := listen(t)
	so := &http1.ServerOptions{Set: h1, AcceptHTTP10: true}
	l.Listen(ln, func(w stream.Wire) stream.Codec { return http1.NewServer(w, front, so) })
	t.Cleanup(func() {
		ln.Close()
		l.Wait(func() {
			if up != nil {
				up.Close()
			}
			for _, c := range all {
				c.Close()
			}
		})
		l.Close()
	})
	return ln.Addr().String()
}

func h1Backend(t testing.TB) string {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.Host, " ", r.ContentLength, " ", r.Header.Get("Cookie")))
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		for k := range r.Trailer {
			w.Header().Set("X-Trailer-"+k, r.Trailer.Get(k))
		}
		w.Header().Set("Trailer", "X-Sum")
		w.Write(b)
		w.Header().Set("X-Sum", fmt.Sprint(len(b)))
	})
	mux.HandleFunc("/length", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		w.Write([]byte("0123456789"))
	})
	mux.HandleFunc("/abort", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/close", func(w http.ResponseWriter, r *http.Request) {
		nc, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(nc, "HTTP/1.0 200 OK\r\n\r\nuntil close")
		nc.Close()
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(103)
		w.WriteHeader(204)
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(413) })
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			typ, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), typ, b) != nil {
				return
			}
		}
	})
	ln := listen(t)
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// bothWays runs a test without and with HTTP/2 in the middle: nobody may be
// able to tell.
func bothWays(t *testing.T, fn func(t *testing.T, addr string)) {
	for _, direct := range []bool{true, false} {
		name := "bridged"
		if direct {
			name = "direct"
		}
		t.Run(name, func(t *testing.T) { fn(t, bridge(t, h1Backend(t), direct)) })
	}
}

func TestBridgeBodies(t *testing.T) {
	bothWays(t, func(t *testing.T, addr string) {
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		hc := &http.Client{Transport: tr, Timeout: 20 * time.Second}
		var wg sync.WaitGroup
		for _, size := range []int{0, 1, 5000, 70_000, 1_000_000} {
			for _, known := range []bool{true, false} {
				wg.Go(func() {
					body := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
					req, _ := http.NewRequest("POST", "http://"+addr+"/echo", bytes.NewReader(body))
					req.Host = "shop.example"
					req.Header["Cookie"] = []string{"a=1; b=2"}
					if !known {
						req.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body)))
						req.ContentLength = -1
						req.Trailer = http.Header{"X-T": {"tt"}}
					}
					res, err := hc.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err != nil || !bytes.Equal(got, body) {
						t.Errorf("%d of %d bytes, %v", len(got), size, err)
					}
					n := size
					if !known {
						n = -1
						if res.Header.Get("X-Trailer-X-T") != "tt" {
							t.Errorf("request trailer lost: %v", res.Header)
						}
					}
					if want := fmt.Sprint("POST shop.example ", n, " a=1; b=2"); res.Header.Get("X-Seen") != want {
						t.Errorf("backend saw %q, want %q", res.Header.Get("X-Seen"), want)
					}
					if res.Trailer.Get("X-Sum") != fmt.Sprint(size) {
						t.Errorf("trailer %v", res.Trailer)
					}
				})
			}
		}
		wg.Wait()
	})
}

func TestBridgeOddities(t *testing.T) {
	bothWays(t, func(t *testing.T, addr string) {
		for _, c := range []struct{ send, want string }{
			{"GET /length HTTP/1.1\r\nHost: a\r\n\r\nGET /length HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "0123456789HTTP/1.1 200 OK"},
			{"HEAD /length HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "content-length: 10\r\n"},
			{"GET /hints HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n"},
			{"GET /length HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n"},
			{"GET /close HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "b\r\nuntil close\r\n0\r\n\r\n"},
			{"GET /abort HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "4\r\npart\r\n"},
			{"PUT /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"},
			{"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n", "HTTP/1.1 413 Request Entity Too Large\r\n"},
		} {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			nc.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(nc, c.send)
			br := bufio.NewReader(nc)
			var got []byte
			if strings.Contains(c.send, "Expect") {
				line, _ := br.Peek(12)
				if string(line) != "HTTP/1.1 100" {
					t.Errorf("%q: no 100 but %q", c.send, line)
				}
				io.WriteString(nc, "abc")
			}
			got, err = io.ReadAll(br)
			nc.Close()
			want := c.want
			if strings.Contains(want, "413") && !strings.Contains(string(got), want) {
				want = "HTTP/1.1 413 Payload Too Large\r\n" // reasons do not travel over HTTP/2
			}
			if !strings.Contains(string(got), want) {
				t.Errorf("%q\n got %q\nwant %q", c.send, got, want)
			}
			if strings.Contains(c.send, "/abort") && (err == nil && bytes.HasSuffix(got, []byte("0\r\n\r\n"))) {
				t.Errorf("truncation became a clean end: %q %v", got, err)
			}
		}
	})
}

func TestBridgeWebSocket(t *testing.T) {
	bothWays(t, func(t *testing.T, addr string) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				c, _, err := websocket.Dial(ctx, "ws://"+addr+"/ws", nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.CloseNow()
				c.SetReadLimit(1 << 20)
				for i := range 50 {
					m := bytes.Repeat([]byte{byte(i)}, i*1000)
					if err := c.Write(ctx, websocket.MessageBinary, m); err != nil {
						t.Error(err)
						return
					}
					if _, b, err := c.Read(ctx); err != nil || !bytes.Equal(b, m) {
						t.Errorf("message %d: %v", i, err)
						return
					}
				}
				if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		wg.Wait()
	})
}
