package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/agent/fds"
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/listen"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// inside is the program's own network namespace, when it has one: sockets are
// made there by the agent and used here. What peers dial, and what is dialled
// for the program, stays in the namespace that we live in.
type inside struct {
	agent  *fds.Client
	urgent *fds.Client // of the loops, which do not wait for what others ask
	stock  [2]stock    // IPv4, IPv6
	low    chan int    // which stock to fill up
}

// stock is sockets that are ready to dial with.
type stock struct {
	fds chan int
	// sick: the agent did not answer in time; nobody waits for it again before
	// it has.
	sick atomic.Bool
}

// Sizes of a stock, in sockets, and how long is waited for new ones: by the
// start, and by a loop that has found the stock empty. That is one round trip
// for a whole stock.
const (
	stockSize = 64
	stockLow  = 32
	agentWait = 5 * time.Second
	loopWait  = 100 * time.Millisecond
)

var errNoSockets = errors.New("no sockets inside the program's namespace")

// openInside connects to the agent.
func openInside(path string) (*inside, error) {
	c, err := fds.Dial(path, agentWait)
	if err != nil {
		return nil, err
	}
	urgent, err := fds.Dial(path, agentWait)
	if err != nil {
		c.Close()
		return nil, err
	}
	in := &inside{agent: c, urgent: urgent, low: make(chan int, 2)}
	for i := range in.stock {
		in.stock[i].fds = make(chan int, 4*stockSize)
	}
	if err := in.fill(c, 0, agentWait); err != nil {
		in.close()
		return nil, err
	}
	go func() {
		for i := range in.low {
			if len(in.stock[i].fds) < stockLow {
				_ = in.fill(c, i, agentWait) // who needs one finds out
			}
		}
	}()
	return in, nil
}

// close ends the filling; the agent's end of it is the agent's own. On no loop.
func (in *inside) close() {
	if in == nil {
		return
	}
	in.agent.Close()
	in.urgent.Close()
	for i := range in.stock {
		for {
			select {
			case fd := <-in.stock[i].fds:
				_ = unix.Close(fd)
				continue
			default:
			}
			break
		}
	}
}

// fill asks for a stock of sockets.
func (in *inside) fill(from *fds.Client, i int, wait time.Duration) error {
	s := &in.stock[i]
	list, err := from.Sockets(i == 1, stockSize, wait)
	s.sick.Store(err != nil)
	for _, fd := range list {
		select {
		case s.fds <- fd:
		default: // several loops have filled it at once
			_ = unix.Close(fd)
		}
	}
	return err
}

// take returns a socket; on a loop.
func (in *inside) take(i int) (int, error) {
	s := &in.stock[i]
	if len(s.fds) < stockLow {
		select {
		case in.low <- i:
		default:
		}
	}
	for range 2 {
		select {
		case fd := <-s.fds:
			return fd, nil
		default:
		}
		if s.sick.Load() {
			break
		}
		if err := in.fill(in.urgent, i, loopWait); err != nil {
			return -1, fmt.Errorf("%w: %w", errNoSockets, err)
		}
	}
	return -1, errNoSockets
}

// dialer and opener are what the pools and the listeners use; nil where there
// is no other namespace.
func (in *inside) dialer() func(*loop.Loop, *conf.Cluster, *cluster.Endpoint, loop.DialOptions) (*loop.Conn, error) {
	if in == nil {
		return nil
	}
	return in.dial
}

func (in *inside) opener() func(netip.AddrPort) (int, error) {
	if in == nil {
		return nil
	}
	return in.open
}

// dial implements pool.Options.Dial: connections of inbound clusters are the
// program's, so they are made inside; nil for all others.
func (in *inside) dial(l *loop.Loop, c *conf.Cluster, ep *cluster.Endpoint, o loop.DialOptions) (*loop.Conn, error) {
	if ep.Pipe != "" || !strings.HasPrefix(c.Name, "inbound|") && c.Name != "InboundPassthroughCluster" {
		return nil, nil
	}
	i := 0
	if !ep.Addr.Addr().Unmap().Is4() {
		i = 1
	}
	fd, err := in.take(i)
	if err != nil {
		return nil, err
	}
	return l.DialOn(fd, ep.Addr, o)
}

// open implements listen.Options.Open: what is redirected arrives inside, at
// every address there; peers arrive here, at an address of this machine.
func (in *inside) open(a netip.AddrPort) (int, error) {
	if !a.Addr().IsUnspecified() && a.Addr() != insideLocalhost {
		return listen.Open(a)
	}
	return in.agent.Listen(a, agentWait)
}
