package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestSlowReader: who does not read stops the sender, through both sidecars,
// after a bounded number of bytes; others are served meanwhile, and the rest
// arrives whole when it is read.
func TestSlowReader(t *testing.T) {
	const size = 256 << 20
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		written, over := make(chan int, 1<<16), make(chan bool)
		addr := answers(t, func(h string, c net.Conn, _ *bufio.Reader) {
			switch {
			case h[:9] == "GET /big ":
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", size)
				b := make([]byte, 1<<20)
				for n := 0; n < size; n += len(b) {
					if _, err := c.Write(b); err != nil {
						return
					}
					written <- n + len(b)
				}
			case h[:6] == "POST /":
				<-over // without reading
			default:
				ok(c, "")
			}
		})
		m := proxytest.NewMesh(t, addr, o)
		before := heap()
		slow := dial(t, m.Client.Addr)
		slow.say("GET /big HTTP/1.1\r\nhost: a\r\n\r\n")
		if h := slow.head(); status(h) != "200" {
			t.Fatal(h)
		}
		stalled := stall(t, written)
		if stalled >= size/2 {
			t.Errorf("the sender was not stopped before %d bytes", stalled)
		}
		if after := heap(); after > before+16<<20 {
			t.Errorf("%d KiB are held for a reader that does not read", (after-before)>>10)
		}
		// The same the other way: a program that does not read.
		up := dial(t, m.Client.Addr).say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n", size)
		go func() {
			b := make([]byte, 1<<20)
			for n := 0; ; n += len(b) {
				if _, err := up.Write(b); err != nil {
					return
				}
				written <- n
			}
		}()
		if sent := stall(t, written); sent >= size/2 {
			t.Errorf("the uploader was not stopped before %d bytes", sent)
		}
		for range 20 { // small ones beside the two large ones
			if h := dial(t, m.Client.Addr).say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").head(); status(h) != "200" {
				t.Fatal(h)
			}
		}
		_ = up.Close()
		close(over) // a sender that is stopped is only missed when its receiver goes on, or by a timeout
		go func() {
			for range written {
			}
		}()
		if n, err := io.CopyN(io.Discard, slow.in, size); err != nil {
			t.Errorf("after %d bytes: %v", n, err)
		}
		idle(t, m.Client, m.Server)
	})
}

// stall waits until nothing is reported in many rounds, and returns the last
// report: nothing but time can tell that a sender rests. A machine without time
// for us makes the rounds longer.
func stall(t testing.TB, reports <-chan int) (last int) {
	t.Helper()
	for quiet := 0; quiet < 40; quiet++ {
		select {
		case last = <-reports:
			quiet = 0
		case <-time.After(10 * time.Millisecond):
		}
	}
	return last
}
