package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestQuitters: what clients leave behind that go away in the middle of a
// request, one after the other, is nothing.
func TestQuitters(t *testing.T) {
	at := make(chan bool, 1)
	addr := app(t, func(c net.Conn, in *bufio.Reader) {
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			at <- true
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
		}
	})
	m := proxytest.NewMesh(t, addr, proxytest.Options{NoBridge: true}) // a TLS connection for each
	some := func(n int) {
		for range n {
			c := dial(t, m.Client.Addr).say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n%050000d", 1)
			<-at
			_ = c.Close()
		}
		eventually(t, "all connections are closed", func() bool { return m.Client.Connections()+m.Server.Connections() == 0 })
	}
	some(20)
	before := heap()
	some(100)
	if after := heap(); after > before+1<<20 { // a connection under TLS has 18 KiB
		t.Errorf("the heap grew from %d to %d KiB", before>>10, after>>10)
	}
}
