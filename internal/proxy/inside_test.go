package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/agent/fds"
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// agentAt serves sockets of this namespace until the test ends, or stop.
func agentAt(t *testing.T) (path string, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tulle")
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "agent.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = fds.Serve(l) }()
	t.Cleanup(func() { _ = l.Close(); _ = os.RemoveAll(dir) })
	return path, func() { _ = l.Close() }
}

// A burst that is larger than the stock gets its sockets all the same.
func TestStock(t *testing.T) {
	path, _ := agentAt(t)
	in, err := openInside(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	for i := range 2 {
		seen := map[int]bool{}
		for range 300 {
			fd, err := in.take(i)
			if err != nil {
				t.Fatal(err)
			}
			if seen[fd] {
				t.Fatalf("socket %d twice", fd)
			}
			seen[fd] = true
		}
		for fd := range seen {
			_ = unix.Close(fd)
		}
	}
}

// An agent that does not answer costs a loop its patience once.
func TestStockWithoutAgent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it accepts, and never answers
	c, err := fds.Dial(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	in := &inside{agent: c, urgent: c, low: make(chan int, 2)}
	for i := range in.stock {
		in.stock[i].fds = make(chan int, stockSize)
	}
	defer in.close()
	waited := 0
	for range 50 {
		_, err := in.take(0)
		if !errors.Is(err, errNoSockets) {
			t.Fatal(err)
		}
		if err != errNoSockets { // the agent was asked
			waited++
		}
	}
	if waited != 1 {
		t.Errorf("of 50 attempts %d waited", waited)
	}
}

// opened is a codec that reports what became of a connection.
type opened struct {
	closed
	c    *loop.Conn
	done chan error
}

func (o *opened) OnConnect()        { o.c.Close(); o.done <- nil }
func (o *opened) OnClose(err error) { o.done <- err }

// Connections of inbound clusters are made on sockets from inside, others not.
func TestInsideDial(t *testing.T) {
	path, _ := agentAt(t)
	in, err := openInside(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	g, err := loop.New(1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		to := netip.MustParseAddrPort(l.Addr().String())
		for name, ours := range map[string]bool{"inbound|8080||": true, "InboundPassthroughCluster": true, "outbound|80||x": false, "PassthroughCluster": false} {
			done := make(chan error, 1)
			g.Loops()[0].Post(func() {
				c, err := in.dial(g.Loops()[0], &conf.Cluster{Name: name}, &cluster.Endpoint{Addr: to}, loop.DialOptions{})
				switch {
				case err != nil:
					done <- err
				case c == nil:
					done <- errNoSockets
				default:
					c.Start(&opened{c: c, done: done})
				}
			})
			if err := <-done; (err == nil) != ours {
				t.Errorf("%s to %s: %v", name, to, err)
			}
		}
	}
}

// Host ports are the program's localhost, whatever the control plane says.
func TestHostPorts(t *testing.T) {
	p := &Proxy{hostPorts: hostPortsOf([]uint16{5432})}
	s := conf.NewSnapshot()
	s.Listeners["host|5432||localhost"] = &conf.Listener{Name: "another"}
	out := p.withHostPorts(s)
	l, c := out.Listeners["host|5432||localhost"], out.Clusters["host|5432||localhost"]
	if len(s.Clusters) != 0 || l == nil || c == nil || l.Addresses[0] != netip.MustParseAddrPort("127.0.0.1:5432") || !l.Bind {
		t.Errorf("%+v %+v", l, c)
	}
	if p = (&Proxy{}); p.withHostPorts(s) != s {
		t.Error("a snapshot is copied for nothing")
	}
}
