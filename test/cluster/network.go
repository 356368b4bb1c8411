//go:build linux

package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Addresses of every cluster: they exist only inside it.
const (
	host            = "host" // the place of the control plane
	hostIP          = "172.30.0.1"
	hostIP6         = "fd30::1"
	firstServiceIP  = "10.96.0.1"
	firstServiceIP6 = "fd96::1"
	dnsIP           = "10.96.0.10"
	serviceRange    = "10.96.0.0/16"
	serviceRange6   = "fd96::/112"
	podRange        = "10.244.0.0/16"
	podRange6       = "fd44::/48"
)

func nodeName(i int) string { return fmt.Sprintf("node%d", i) }
func nodeIP(i int) string   { return fmt.Sprintf("172.30.0.%d", i+1) }
func nodeIP6(i int) string  { return fmt.Sprintf("fd30::%x", i+1) }
func podNet(i int) string   { return fmt.Sprintf("10.244.%d.0/24", i) }
func podNet6(i int) string  { return fmt.Sprintf("fd44:0:0:%x::/64", i) }

// ip runs lines of ip(8) with a place's network.
func (c *Cluster) ip(ctx context.Context, place string, lines ...string) error {
	for _, l := range lines {
		if _, err := c.places.run(ctx, place, true, append([]string{"ip"}, strings.Fields(l)...)...); err != nil {
			return err
		}
	}
	return nil
}

// hostNetwork makes the bridge that the nodes will be on.
func (c *Cluster) hostNetwork(ctx context.Context) error {
	return c.ip(ctx, host,
		"link set lo up",
		"link add nodes type bridge",
		"addr add "+hostIP+"/24 dev nodes",
		"-6 addr add "+hostIP6+"/64 dev nodes nodad",
		"link set nodes up",
	)
}

// nodeNetwork connects a node's place with the bridge and gives the host
// routes to its pods. Services are reachable from the host through node 1.
func (c *Cluster) nodeNetwork(ctx context.Context, i int) error {
	n := nodeName(i)
	c.places.mu.Lock()
	pid := c.places.pid[n]
	c.places.mu.Unlock()
	lines := []string{
		fmt.Sprintf("link add %s type veth peer name eth0 netns %d", n, pid),
		fmt.Sprintf("link set %s master nodes up", n),
		fmt.Sprintf("route replace %s via %s", podNet(i), nodeIP(i)),
		fmt.Sprintf("-6 route replace %s via %s", podNet6(i), nodeIP6(i)),
	}
	if i == 1 {
		lines = append(lines, fmt.Sprintf("route replace %s via %s", serviceRange, nodeIP(i)),
			fmt.Sprintf("-6 route replace %s via %s", serviceRange6, nodeIP6(i)))
	}
	if err := c.ip(ctx, host, lines...); err != nil {
		return err
	}
	lines = []string{
		"link set lo up",
		fmt.Sprintf("addr add %s/24 dev eth0", nodeIP(i)),
		fmt.Sprintf("-6 addr add %s/64 dev eth0 nodad", nodeIP6(i)),
		"link set eth0 up",
		"route add default via " + hostIP,
		"-6 route add default via " + hostIP6,
	}
	for o := 1; o <= c.options.Nodes; o++ {
		if o != i {
			lines = append(lines, fmt.Sprintf("route add %s via %s", podNet(o), nodeIP(o)),
				fmt.Sprintf("-6 route add %s via %s", podNet6(o), nodeIP6(o)))
		}
	}
	return c.ip(ctx, n, lines...)
}

// Dial connects to an address inside the cluster: a node, a pod, or a Service
// (by way of node 1). The address is literal. It has net.Dialer's signature for
// HTTP transports.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	runtime.LockOSThread() // unlocked only where the thread is as it was
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer unix.Close(own)
	if err := unix.Setns(c.hostNet, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter the cluster's network: %w", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil {
		return nil, fmt.Errorf("leave the cluster's network: %w", back)
	}
	runtime.UnlockOSThread()
	return conn, err
}

// forward makes the API server reachable at a loopback port of this machine,
// as long as this process lives.
func (c *Cluster) forward(ctx context.Context) (net.Listener, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := c.Dial(ctx, "tcp", net.JoinHostPort(hostIP, apiPort))
				if err != nil {
					return // the client sees a closed connection, as from a server that is down
				}
				defer out.Close()
				sent := make(chan struct{})
				go func() { pass(out, in); close(sent) }()
				pass(in, out)
				<-sent
			}()
		}
	}()
	return l, nil
}

// pass copies one direction to its end and tells the receiver of the end.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // an error ends the connection, which both sides see
	_ = to.(*net.TCPConn).CloseWrite()
}
