//go:build linux

package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a cluster; the zero value is two nodes with DNS and no images.
type Options struct {
	Nodes   int       // 0 means 2
	APIOnly bool      // etcd and the API server, no controllers and no nodes: objects can be kept and watched
	Images  []Image   // on every node from the start
	Log     io.Writer // progress; nil: none
}

// Cluster is a running cluster. Its methods may be called concurrently.
type Cluster struct {
	Kubeconfig string // file: cluster-admin, through a loopback port of this machine
	Dir        string // everything of the cluster; logs are in Dir/log until Down

	options Options
	bin     string // the components
	places  *places
	hostNet int // descriptor of the host's network namespace
	api     net.Listener
	stop    context.CancelFunc
	say     func(string)

	mu      sync.Mutex
	ended   error              // the first component that ended by itself
	daemons map[string]*daemon // by place-name
	images  []string           // archives that every node gets
}

// needed are the programs of the machine.
var needed = []string{"containerd", "ctr", "runc", "iptables", "ip", "nsenter", "mount"}

// Up starts a cluster and returns when every node is ready and, unless
// APIOnly, DNS answers. The components are built first if the cache has none.
// ctx bounds the start only. On an error nothing is left.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	if o.Nodes == 0 {
		o.Nodes = 2
	}
	if o.APIOnly {
		o.Nodes = 0
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if os.Getuid() != 0 {
		return nil, errors.New("a cluster needs root: namespaces with networks of their own, containerd")
	}
	for _, n := range needed {
		if _, err := exec.LookPath(n); err != nil && (!o.APIOnly || n == "ip" || n == "nsenter") {
			return nil, fmt.Errorf("%s is not installed; apt-get install containerd runc containernetworking-plugins iptables iproute2", n)
		}
	}
	bin, err := Components(ctx, o.Log)
	if err != nil {
		return nil, err
	}
	guard, err := guardProgram(ctx)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(filepath.Dir(guard))
	began := time.Now()
	p, err := newPlaces(ctx, guard)
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.Background())
	c := &Cluster{
		Kubeconfig: filepath.Join(p.dir, "kubeconfig"), Dir: p.dir,
		options: o, bin: bin, places: p, hostNet: -1, stop: stop, daemons: map[string]*daemon{},
	}
	c.say = func(what string) { fmt.Fprintf(o.Log, "%5.1fs %s\n", time.Since(began).Seconds(), what) }
	if err := c.up(ctx, life); err != nil {
		return nil, errors.Join(err, c.lastWords(), c.Down())
	}
	return c, nil
}

// guardProgram builds the guard into a directory that may be removed once it runs.
func guardProgram(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "tulle-guard-*")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "guard")
	return path, Program(ctx, "./test/cluster/guard", path)
}

// up starts everything: the control plane, and beside it the nodes, which wait
// for it by themselves.
func (c *Cluster) up(ctx, life context.Context) error {
	for _, d := range []string{"log", "etc", "images"} {
		if err := os.Mkdir(filepath.Join(c.Dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := writePKI(c.pki(""), c.options.Nodes); err != nil {
		return err
	}
	if err := c.places.make(host); err != nil {
		return err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", c.places.pid[host]), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the host's network namespace: %w", err)
	}
	c.hostNet = fd
	if err := c.hostNetwork(ctx); err != nil {
		return err
	}
	if c.api, err = c.forward(life); err != nil {
		return err
	}
	if err := c.kubeconfigs(); err != nil {
		return err
	}
	started := make(chan error, 1)
	go func() { started <- c.startNodes(ctx) }()
	err = c.controlPlane(ctx)
	if nodes := <-started; err == nil {
		err = nodes
	}
	if err != nil || c.options.APIOnly {
		return err
	}
	return c.whole(ctx)
}

// startNodes builds the images and starts all nodes at once.
func (c *Cluster) startNodes(ctx context.Context) error {
	if c.options.APIOnly {
		return nil
	}
	if err := c.baseImages(ctx); err != nil {
		return err
	}
	done := make(chan error)
	for i := 1; i <= c.options.Nodes; i++ {
		go func() { done <- c.StartNode(ctx, i) }()
	}
	var err error
	for range c.options.Nodes {
		err = errors.Join(err, <-done)
	}
	return err
}

//go:embed dns.yaml
var dns []byte

// whole waits for the nodes and gives the cluster its DNS.
func (c *Cluster) whole(ctx context.Context) error {
	if err := c.Apply(ctx, dns); err != nil {
		return err
	}
	for i := 1; i <= c.options.Nodes; i++ {
		if err := c.NodeReady(ctx, i); err != nil {
			return err
		}
	}
	c.say("nodes ready")
	if _, err := c.Kubectl(ctx, "-n", "kube-system", "rollout", "status", "deployment/coredns"); err != nil {
		return err
	}
	c.say("DNS ready")
	return nil
}

// Down ends the cluster and returns when nothing of it is left: no process, no
// mount, no network, no control group, no file. A second call does nothing.
func (c *Cluster) Down() error {
	c.mu.Lock()
	p := c.places
	c.places = nil
	for _, d := range c.daemons {
		d.meant.Store(true)
	}
	c.mu.Unlock()
	if p == nil {
		return nil
	}
	c.stop()
	if c.api != nil {
		_ = c.api.Close()
	}
	if c.hostNet >= 0 {
		_ = unix.Close(c.hostNet)
		c.hostNet = -1
	}
	return p.close()
}

// componentEnded remembers the first component that ended by itself: whoever
// waits for the cluster learns why it does not come.
func (c *Cluster) componentEnded(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = err
	}
}

// Err tells of a component that ended by itself, nil while all run.
func (c *Cluster) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// lastWords are the ends of the logs, for a start that failed.
func (c *Cluster) lastWords() error {
	logs, err := filepath.Glob(filepath.Join(c.Dir, "log", "*.log"))
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, l := range logs {
		text, err := os.ReadFile(l)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "== %s\n%s", filepath.Base(l), text[max(0, len(text)-2000):])
	}
	return errors.New(b.String())
}

// until asks every so often until there is an answer, ctx ends or a component does.
func (c *Cluster) until(ctx context.Context, what string, ask func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		last := ask()
		if last == nil {
			return nil
		}
		if err := c.Err(); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %w", what, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

func (c *Cluster) pki(name string) string { return filepath.Join(c.Dir, "pki", name) }
func (c *Cluster) etc(name string) string { return filepath.Join(c.Dir, "etc", name) }
func (c *Cluster) log(name string) string { return filepath.Join(c.Dir, "log", name+".log") }
