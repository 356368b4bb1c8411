package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// tcpTo is a listener that carries connections to one endpoint.
func tcpTo(addr string) *conf.Snapshot {
	s := toBackend(addr, nil)
	l := *s.Listeners["in"]
	l.Chains = []*conf.Chain{{Name: "tcp", TCP: &conf.TCP{StatPrefix: "test", Clusters: []conf.WeightedCluster{{Name: "backend", Weight: 1}}}}}
	s.Listeners["in"] = &l
	return s
}

// lines answers every line; with hello it speaks first.
func lines(t *testing.T, hello string) netip.AddrPort {
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
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, hello)
				for in := bufio.NewScanner(c); in.Scan(); {
					fmt.Fprintf(c, "got %s\n", in.Text())
				}
				_, _ = io.WriteString(c, "bye\n")
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestTCP(t *testing.T) {
	for _, hello := range []string{"", "hello\n"} {
		t.Run("hello="+hello, func(t *testing.T) {
			_, addr := start(t, tcpTo(lines(t, hello).String()))
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			in := bufio.NewReader(c)
			want := func(s string) {
				t.Helper()
				if got, err := in.ReadString('\n'); got != s {
					t.Fatalf("got %q, %v, want %q", got, err, s)
				}
			}
			if hello != "" {
				want(hello)
			}
			for i := range 3 {
				fmt.Fprintf(c, "line %d\n", i)
				want(fmt.Sprintf("got line %d\n", i))
			}
			_ = c.(*net.TCPConn).CloseWrite()
			want("bye\n")
			if _, err := in.ReadByte(); err != io.EOF {
				t.Fatalf("after the end: %v", err)
			}
		})
	}
}
