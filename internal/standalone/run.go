//go:build linux

package standalone

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/api"
	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Run says what to start and where.
type Run struct {
	Spec    control.WorkloadSpec
	Command []string     // may hold {{tulle.addr HOST PORT}}; empty: the sidecar alone (gateways)
	Dir     string       // scratch of this mesh: sockets, bootstrap files
	Proxy   string       // path of tulle-proxy
	Loops   int          // event loops of the proxy; 0: its default
	Runtime Runtime      // limits of the proxy
	Probe   *model.Probe // readiness; nil: the Deployment's, else the program is ready when its first port accepts
	Env     []string     // the program's environment before ours
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	// ProxyOut gets the proxy's own output (access log, messages).
	ProxyOut io.Writer
	// Foreground: the program may read the terminal.
	Foreground bool
	// Started, if set, is called once the program runs.
	Started func(*Replica)
	// Grace is how long the program may take to end; 0: 10 s.
	Grace time.Duration
	// joined runs beside the sidecar from its start on, for gateways.
	joined func(context.Context, *Replica)
	Mode   Mode
	// HostPorts are ports of this machine's own localhost that the program may
	// reach at its localhost, where it has namespaces of its own.
	HostPorts []uint16
}

// Replica is a program that has joined the mesh.
type Replica struct {
	control.Registration
	XDS   string // unix socket of the control plane
	Admin string // unix socket of its proxy's admin server
	Proxy *Process
	App   *Process // nil for a gateway; its agent where it has namespaces of its own
	place *place   // nil: it has none

	boot    string     // the proxy's bootstrap file
	retired []*Process // proxies that another has taken over from
}

// Namespaces reports whether the program has namespaces of its own.
func (r *Replica) Namespaces() bool { return r.place != nil }

// settle is how long the others get to learn that a replica leaves.
const settle = 300 * time.Millisecond

// Do joins the mesh, starts proxy and program, and returns when the program
// has ended or ctx has; then nothing of them is left. The program's failure is
// an *ExitError.
func (r *Run) Do(ctx context.Context, ctl *api.Client) error {
	info, err := ctl.Info(ctx)
	if err != nil {
		return err
	}
	spec := r.Spec
	if len(r.Command) > 0 {
		if spec.Redirected, err = r.Mode.settle(r.Proxy, r.say); err != nil {
			return err
		}
	}
	m, err := join(ctx, ctl, spec, r.say)
	if err != nil {
		return err
	}
	defer m.close()
	rep := &Replica{Registration: m.lease.Registration, XDS: info.Socket}
	root, err := filepath.Abs(r.Dir)
	if err != nil {
		return fmt.Errorf("scratch: %w", err)
	}
	dir := filepath.Join(root, strings.ReplaceAll(rep.ID, "/", "."))
	lock, err := openScratch(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	defer os.RemoveAll(dir)
	defer os.RemoveAll(secretDir(dir))
	if spec.Redirected {
		if err := r.makePlace(ctx, rep, dir); err != nil {
			return err
		}
		defer rep.place.close(0)
	}
	if err := r.startProxy(rep, dir); err != nil {
		return err
	}
	m.tokenFile = filepath.Join(dir, tokenFile)
	defer func() { rep.stopProxies(6 * time.Second) }()
	keeping, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	kept := make(chan struct{})
	go func() { defer close(kept); m.keep(keeping) }()
	defer func() { stopKeeping(); <-kept }()
	if r.joined != nil {
		go r.joined(keeping, rep)
	}
	if err := waitReady(ctx, rep, r.Spec.Gateway); err != nil {
		return err
	}
	if len(r.Command) > 0 {
		if err := r.startApp(rep); err != nil {
			return err
		}
	}
	probing, stopProbing := context.WithCancel(ctx)
	defer stopProbing()
	go r.announce(probing, m, rep)
	if r.Started != nil {
		r.Started(rep)
	}
	err = r.wait(ctx, rep)
	stopProbing()
	r.leave(m, rep)
	return err
}

// say prints a message for the person who runs the program.
func (r *Run) say(format string, args ...any) {
	if r.Stderr != nil {
		fmt.Fprintf(r.Stderr, "tulle: "+format+"\n", args...)
	}
}

// tokenFile is the name of the file from which the sidecar reads its token.
const tokenFile = "token"

// wait for the end of the program, the proxy, or the caller's patience.
func (r *Run) wait(ctx context.Context, rep *Replica) error {
	renewal, end := Renewals()
	defer end()
	var app <-chan struct{}
	if rep.App != nil {
		app = rep.App.Done()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-app:
			if err := rep.App.Err(); err != nil {
				return &ExitError{Program: r.Command[0], Err: err}
			}
			return nil
		case <-rep.Proxy.Done():
			return fmt.Errorf("the sidecar of %s ended: %w", rep.Name, errors.Join(errors.New("see its log"), rep.Proxy.Err()))
		case <-renewal:
			if err := r.renew(ctx, rep); err != nil {
				r.say("%s: a new tulle-proxy did not take over: %v; the old one goes on", rep.Name, err)
				continue
			}
			r.say("%s: a new tulle-proxy has taken over", rep.Name)
		}
	}
}

// leave takes the replica out of the mesh, then ends the program: nobody sends
// a request to a program that is ending.
func (r *Run) leave(m *member, rep *Replica) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := m.setReady(ctx, false); err == nil && rep.App != nil {
		time.Sleep(settle)
	}
	grace := r.Grace
	if grace <= 0 {
		grace = 10 * time.Second
	}
	if rep.App != nil {
		rep.App.Stop(grace)
	}
}

// ExitError is a program that ended with a failure.
type ExitError struct {
	Program string
	Err     error
}

// Error names the program and how it ended.
func (e *ExitError) Error() string { return fmt.Sprintf("%s: %v", filepath.Base(e.Program), e.Err) }

// Unwrap returns the *exec.ExitError.
func (e *ExitError) Unwrap() error { return e.Err }

// bootstrap is the proxy's; its form is proxy.Bootstrap.
type bootstrap struct {
	ID          string            `json:"id"`
	Workload    bootstrapWorkload `json:"workload"`
	XDS         string            `json:"xds"`
	TokenFile   string            `json:"tokenFile"`
	SecretDir   string            `json:"secretDir"`
	StateDir    string            `json:"stateDir,omitempty"`
	Admin       string            `json:"admin"`
	Concurrency int               `json:"concurrency,omitempty"`
	// RestartSocket is where a new proxy takes over from the running one.
	RestartSocket string   `json:"restartSocket,omitempty"`
	Agent         string   `json:"agent,omitempty"`
	HostPorts     []uint16 `json:"hostPorts,omitempty"`
	OnDemand      bool     `json:"onDemand,omitempty"`

	Runtime map[string]string `json:"runtime,omitempty"`
}

type bootstrapWorkload struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	App       string `json:"app,omitempty"`
	Version   string `json:"version,omitempty"`
	Canonical string `json:"canonical,omitempty"`
	Revision  string `json:"revision,omitempty"`
	Account   string `json:"account,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
	Gateway   bool   `json:"gateway,omitempty"`
}

func (r *Run) startProxy(rep *Replica, dir string) error {
	rep.Admin = filepath.Join(dir, "admin.sock")
	b := bootstrap{ID: rep.ID, XDS: "unix://" + rep.XDS, TokenFile: filepath.Join(dir, tokenFile),
		SecretDir: secretDir(dir), StateDir: filepath.Join(dir, "state"), Admin: "unix://" + rep.Admin, Concurrency: r.Loops, Runtime: r.Runtime, RestartSocket: filepath.Join(dir, "restart.sock")}
	l := rep.Labels
	b.Workload = bootstrapWorkload{Name: first(r.Spec.Deployment, rep.Name), Namespace: rep.Namespace, App: l["app"],
		Version: l["version"], Canonical: first(l["service.istio.io/canonical-name"], l["app.kubernetes.io/name"], l["app"], r.Spec.Deployment, rep.Name),
		Revision: first(l["service.istio.io/canonical-revision"], l["app.kubernetes.io/version"], l["version"], "latest"),
		Account:  rep.Account, Cluster: "Kubernetes", Gateway: r.Spec.Gateway}
	if rep.place != nil {
		b.Agent, b.HostPorts, b.OnDemand = rep.place.socket, r.HostPorts, true
	}
	if err := os.WriteFile(b.TokenFile, []byte(rep.Token), 0o600); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	rep.boot = filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(rep.boot, raw, 0o600); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	rep.Proxy, err = r.launch(rep)
	return err
}

// launch starts a process of the replica's proxy.
func (r *Run) launch(rep *Replica) (*Process, error) {
	return Start(Command{Args: []string{r.Proxy, "--bootstrap", rep.boot}, Env: os.Environ(), Stdout: r.ProxyOut, Stderr: r.ProxyOut})
}

// secretDir is where the sidecar with that scratch keeps its key: in memory,
// where the machine has such a place.
func secretDir(scratch string) string {
	name := "tulle-" + hex.EncodeToString(hashOf(scratch))
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, name)
	}
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		return filepath.Join("/dev/shm", name)
	}
	return filepath.Join(scratch, "secrets")
}

func hashOf(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:10]
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// waitReady waits until the proxy has its configuration and certificate; a
// patient one for as long as it takes, since ports may be in use.
func waitReady(ctx context.Context, rep *Replica, patient bool) error {
	c := AdminClient(rep.Admin)
	defer c.CloseIdleConnections()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	last := "it did not answer"
	for {
		if resp, err := c.Get("http://proxy/ready"); err == nil {
			b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = strings.TrimSpace(string(b))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-rep.Proxy.Done():
			return fmt.Errorf("the sidecar of %s did not start: %w", rep.Name, rep.Proxy.Err())
		case <-limit.C:
			if patient {
				continue
			}
			return fmt.Errorf("the sidecar of %s is not ready after 20 s: %s", rep.Name, last)
		case <-tick.C:
		}
	}
}

// adminPage reads a page of a proxy's admin server, whatever its status.
func adminPage(ctx context.Context, c *http.Client, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://proxy"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(b), err
}

// AdminClient talks to a proxy's admin server on a unix socket.
func AdminClient(path string) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}, MaxIdleConns: 1, IdleConnTimeout: 10 * time.Second}}
}

var addrPattern = regexp.MustCompile(`\{\{\s*tulle\.addr\s+(\S+)\s+(\d+)\s*\}\}`)

// expand replaces {{tulle.addr HOST PORT}} by the address of a dependency.
func expand(args []string, namespace string, local map[string]netip.AddrPort) ([]string, error) {
	out := make([]string, len(args))
	var failed error
	for i, a := range args {
		out[i] = addrPattern.ReplaceAllStringFunc(a, func(m string) string {
			f := addrPattern.FindStringSubmatch(m)
			at, ok := dependency(f[1], f[2], namespace, local)
			if !ok {
				failed = errors.Join(failed, fmt.Errorf("%s: there is no service %s with port %s", m, f[1], f[2]))
				return m
			}
			return at.String()
		})
	}
	return out, failed
}

// dependency finds a service by any of the names it has in the namespace.
func dependency(host, port, namespace string, local map[string]netip.AddrPort) (netip.AddrPort, bool) {
	for _, h := range []string{host, host + "." + namespace + ".svc.cluster.local", host + ".svc.cluster.local", host + ".cluster.local"} {
		if at, ok := local[strings.ToLower(h)+":"+port]; ok {
			return at, true
		}
	}
	return netip.AddrPort{}, false
}

func (r *Run) startApp(rep *Replica) error {
	if rep.place != nil {
		rep.App = rep.place.agent
		return rep.place.start()
	}
	args, err := expand(r.Command, rep.Namespace, rep.Local)
	if err != nil {
		return err
	}
	rep.App, err = Start(Command{Args: args, Env: append(r.Env, environment(rep)...), Stdin: r.Stdin,
		Stdout: r.Stdout, Stderr: r.Stderr, Foreground: r.Foreground, Guard: r.Proxy})
	return err
}

// environment tells a program where to listen and how to reach the others.
func environment(rep *Replica) []string {
	host := rep.IP.String()
	env := []string{"POD_NAME=" + rep.Name, "POD_NAMESPACE=" + rep.Namespace, "POD_IP=" + host, "HOST=" + host}
	if len(rep.Ports) > 0 {
		app := rep.Ports[0].App
		env = append(env, fmt.Sprintf("PORT=%d", app.Port()), "HOST="+app.Addr().String())
	}
	if rep.HTTPProxy.IsValid() {
		p := "http://" + rep.HTTPProxy.String()
		none := "localhost,127.0.0.1,::1"
		env = append(env, "HTTP_PROXY="+p, "http_proxy="+p, "HTTPS_PROXY="+p, "https_proxy="+p, "NO_PROXY="+none, "no_proxy="+none)
	}
	return env
}
