package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestManySlowReaders: a hundred clients that ask for much and do not read
// stop their senders, cost little memory, and hold up nobody else, although all
// of them share what connections there are between the sidecars.
func TestManySlowReaders(t *testing.T) {
	const readers, size = 100, 50 << 20
	written := make(chan int, 1<<16)
	var total atomic.Int64
	piece := make([]byte, 64<<10)
	addr := answers(t, func(h string, c net.Conn, _ *bufio.Reader) {
		if !strings.HasPrefix(h, "GET /big ") {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nsmall")
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", size)
		for n := 0; n < size; n += len(piece) {
			if _, err := c.Write(piece); err != nil {
				return
			}
			select {
			case written <- int(total.Add(int64(len(piece)))):
			default:
			}
		}
	})
	m := proxytest.NewMesh(t, addr, proxytest.Options{})
	before := heap()
	slow := make([]*conn, readers)
	for i := range slow {
		slow[i] = dial(t, m.Client.Addr)
		if i > 0 { // the first will read in the end
			_ = slow[i].SetReadBuffer(16 << 10)
		}
		slow[i].say("GET /big HTTP/1.1\r\nhost: a\r\n\r\n")
	}
	stalled := stall(t, written)
	if stalled >= readers*size/2 {
		t.Errorf("the senders were not stopped before %d bytes", stalled)
	}
	after := heap()
	t.Logf("%d MiB sent, %d MiB held", stalled>>20, (after-before)>>20)
	if after > before+64<<20 {
		t.Errorf("%d KiB are held for readers that do not read", (after-before)>>10)
	}
	for range 20 {
		r, b := dial(t, m.Client.Addr).say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").response("GET")
		if r.StatusCode != 200 || b != "small" {
			t.Fatalf("a small request: %d %q", r.StatusCode, b)
		}
	}
	for _, c := range slow[1:] {
		_ = c.Close()
	}
	if h := slow[0].head(); status(h) != "200" {
		t.Fatal(h)
	}
	if n, err := io.CopyN(io.Discard, slow[0].in, size); err != nil {
		t.Errorf("after %d bytes: %v", n, err)
	}
	idle(t, m.Client, m.Server)
}

// TestJammed: a connection whose window is used up by clients that do not read
// takes no further request, though there is no other yet.
func TestJammed(t *testing.T) {
	const readers, size = 60, 16 << 20
	gate, written := make(chan bool), make(chan int, 1<<16)
	var begun, total atomic.Int64
	piece := make([]byte, 64<<10)
	addr := answers(t, func(h string, c net.Conn, _ *bufio.Reader) {
		if !strings.HasPrefix(h, "GET /big ") {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nsmall")
			return
		}
		begun.Add(1)
		<-gate
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n") // nobody knows that it is large
		for range size / len(piece) {
			if _, err := fmt.Fprintf(c, "%x\r\n%s\r\n", len(piece), piece); err != nil {
				return
			}
			select {
			case written <- int(total.Add(int64(len(piece)))):
			default:
			}
		}
	})
	m := proxytest.NewMesh(t, addr, proxytest.Options{})
	var slow []*conn
	for range readers {
		c := dial(t, m.Client.Addr)
		_ = c.SetReadBuffer(16 << 10)
		slow = append(slow, c.say("GET /big HTTP/1.1\r\nhost: a\r\n\r\n"))
	}
	eventually(t, "all have asked", func() bool { return begun.Load() == readers })
	close(gate)
	stall(t, written)
	for range 20 {
		if r, b := dial(t, m.Client.Addr).say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").response("GET"); r.StatusCode != 200 || b != "small" {
			t.Fatalf("a small request: %d %q", r.StatusCode, b)
		}
	}
	for _, c := range slow {
		_ = c.Close()
	}
	idle(t, m.Client, m.Server)
}

// sharing tells the program on which connection between the sidecars a request
// came, as a field of its head.
func sharing(p *proxytest.Parts) {
	p.Route.Request.Set = []conf.Header{{Name: "x-via", Value: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", Dynamic: true}}
}

// TestLargeApart: small requests do not share a connection with large bodies.
func TestLargeApart(t *testing.T) {
	gate, vias := make(chan bool), make(chan string, 64)
	addr := answers(t, func(h string, c net.Conn, in *bufio.Reader) {
		vias <- field(h, "x-via")
		switch {
		case strings.HasPrefix(h, "GET /large"):
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", 2<<20)
			<-gate
			_, _ = c.Write(make([]byte, 2<<20))
		case strings.HasPrefix(h, "POST /large"):
			<-gate
			_, _ = io.CopyN(io.Discard, in, 2<<20)
			ok(c, "")
		default:
			ok(c, "")
		}
	})
	m := proxytest.NewMesh(t, addr, proxytest.Options{Server: sharing})
	small := func() string {
		t.Helper()
		if h := dial(t, m.Client.Addr).say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").head(); status(h) != "200" {
			t.Fatal(h)
		}
		return <-vias
	}
	small()
	large := map[string]int{}
	var open []*conn
	for range 5 {
		down := dial(t, m.Client.Addr).say("GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
		if h := down.head(); status(h) != "200" {
			t.Fatal(h)
		}
		large[<-vias]++
		up := dial(t, m.Client.Addr).say("POST /large HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n", 2<<20)
		large[<-vias]++
		open = append(open, down, up)
	}
	apart := map[string]int{}
	eventually(t, "small requests have a connection of their own", func() bool { return large[small()] == 0 })
	for range 20 {
		apart[small()]++
	}
	for v := range apart {
		if large[v] > 0 {
			t.Errorf("small requests share connections with large ones: %v and %v", apart, large)
		}
	}
	if len(apart) != 1 {
		t.Errorf("small requests are spread: %v", apart)
	}
	close(gate)
	for i, c := range open {
		if i%2 == 1 {
			c.say("%s", strings.Repeat("x", 2<<20))
			if h := c.head(); status(h) != "200" {
				t.Fatal(h)
			}
		} else if n, err := io.CopyN(io.Discard, c.in, 2<<20); err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
	idle(t, m.Client, m.Server)
}
