//go:build linux

package standalone

import (
	"context"
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
	"strconv"
	"strings"
	"time"
)

// Run says what to start and where.
type Run struct {
	Wish
	Command []string // may hold {{tulle.addr HOST PORT}}; empty: the sidecar alone (gateways)
	Dir     string   // scratch of this mesh: sockets, bootstrap files
	Proxy   string   // path of tulle-proxy
	Loops   int      // event loops of the proxy; 0: its default
	Env     []string // the program's environment before ours
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
}

// Replica is a program that has joined the mesh.
type Replica struct {
	Seat  *Seat
	Admin string // unix socket path of its proxy's admin server
	Proxy *Process
	App   *Process // nil for a gateway
}

// settle is how long the others get to learn that a replica leaves.
const settle = 300 * time.Millisecond

// Do joins the mesh, starts proxy and program, and returns when the program
// has ended or ctx has; then nothing of them is left. The program's failure is
// an *ExitError.
func (r *Run) Do(ctx context.Context, ctl Control) error {
	joined, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	seat, err := ctl.Join(joined, r.Wish)
	if err != nil {
		return err
	}
	rep := &Replica{Seat: seat}
	dir := filepath.Join(r.Dir, seat.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("scratch: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := r.startProxy(ctx, rep, dir); err != nil {
		return err
	}
	defer rep.Proxy.Stop(6 * time.Second)
	if err := waitReady(ctx, rep); err != nil {
		return err
	}
	if len(r.Command) > 0 {
		if err := r.startApp(ctx, ctl, rep); err != nil {
			return err
		}
	}
	probing, stopProbing := context.WithCancel(ctx)
	defer stopProbing()
	go r.announce(probing, ctl, rep)
	if r.Started != nil {
		r.Started(rep)
	}
	err = r.wait(ctx, rep)
	stopProbing()
	r.leave(ctl, rep)
	return err
}

// wait for the end of the program, the proxy, or the caller's patience.
func (r *Run) wait(ctx context.Context, rep *Replica) error {
	var app <-chan struct{}
	if rep.App != nil {
		app = rep.App.Done()
	}
	select {
	case <-ctx.Done():
		return nil
	case <-app:
		if err := rep.App.Err(); err != nil {
			return &ExitError{Program: r.Command[0], Err: err}
		}
		return nil
	case <-rep.Proxy.Done():
		return fmt.Errorf("the sidecar of %s ended: %w", rep.Seat.Name, errors.Join(errors.New("see its log"), rep.Proxy.Err()))
	}
}

// leave takes the replica out of the mesh, then ends the program: nobody sends
// a request to a program that is ending.
func (r *Run) leave(ctl Control, rep *Replica) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := ctl.SetReady(ctx, rep.Seat.ID, false); err == nil && rep.App != nil {
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

func (r *Run) startProxy(_ context.Context, rep *Replica, dir string) error {
	s := rep.Seat
	rep.Admin = filepath.Join(dir, "admin.sock")
	b := bootstrap{ID: s.ID, XDS: s.XDS, TokenFile: filepath.Join(dir, "token"), SecretDir: filepath.Join(dir, "secrets"),
		Admin: "unix://" + rep.Admin, Concurrency: r.Loops}
	b.Workload = bootstrapWorkload{Name: s.Name, Namespace: s.Namespace, App: s.Labels["app"], Version: s.Labels["version"],
		Canonical: canonical(s), Revision: first(s.Labels["version"], "latest"), Account: s.Account, Cluster: "standalone", Gateway: r.Gateway}
	if s.Owner != "" {
		b.Workload.Name = s.Owner
	}
	if err := os.WriteFile(b.TokenFile, []byte(s.Token), 0o600); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	file := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	rep.Proxy, err = Start(Command{Args: []string{r.Proxy, "--bootstrap", file}, Env: os.Environ(), Stdout: r.ProxyOut, Stderr: r.ProxyOut})
	return err
}

func canonical(s *Seat) string {
	return first(s.Labels["service.istio.io/canonical-name"], s.Labels["app.kubernetes.io/name"], s.Labels["app"], s.Owner, s.Name)
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// waitReady waits until the proxy has its configuration and certificate.
func waitReady(ctx context.Context, rep *Replica) error {
	c := AdminClient(rep.Admin)
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
			return fmt.Errorf("the sidecar of %s did not start: %w", rep.Seat.Name, rep.Proxy.Err())
		case <-limit.C:
			return fmt.Errorf("the sidecar of %s is not ready after 20 s: %s", rep.Seat.Name, last)
		case <-tick.C:
		}
	}
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
func expand(ctx context.Context, ctl Control, id string, args []string) ([]string, error) {
	out := make([]string, len(args))
	var failed error
	for i, a := range args {
		out[i] = addrPattern.ReplaceAllStringFunc(a, func(m string) string {
			f := addrPattern.FindStringSubmatch(m)
			port, err := strconv.ParseUint(f[2], 10, 16)
			if err == nil {
				var at netip.AddrPort
				if at, err = ctl.Address(ctx, id, f[1], uint16(port)); err == nil {
					return at.String()
				}
			}
			failed = errors.Join(failed, fmt.Errorf("%s: %w", m, err))
			return m
		})
	}
	return out, failed
}

func (r *Run) startApp(ctx context.Context, ctl Control, rep *Replica) error {
	args, err := expand(ctx, ctl, rep.Seat.ID, r.Command)
	if err != nil {
		return err
	}
	rep.App, err = Start(Command{Args: args, Env: append(r.Env, environment(rep.Seat)...), Stdin: r.Stdin,
		Stdout: r.Stdout, Stderr: r.Stderr, Foreground: r.Foreground})
	return err
}

// environment tells a program where to listen and how to reach the others.
func environment(s *Seat) []string {
	host := s.Address.String()
	env := []string{"HOST=" + host, "POD_NAME=" + s.Name, "POD_NAMESPACE=" + s.Namespace, "POD_IP=" + host}
	if len(s.Expose) > 0 {
		app := s.Expose[0].App
		env = append(env, fmt.Sprintf("PORT=%d", app.Port()), "HOST="+app.Addr().String())
	}
	if s.HTTPProxy.IsValid() {
		p := "http://" + s.HTTPProxy.String()
		none := "localhost,127.0.0.1,::1"
		env = append(env, "HTTP_PROXY="+p, "http_proxy="+p, "HTTPS_PROXY="+p, "https_proxy="+p, "NO_PROXY="+none, "no_proxy="+none)
	}
	return env
}

// announce tells the control plane when the program takes requests.
func (r *Run) announce(ctx context.Context, ctl Control, rep *Replica) {
	tell := func(ready bool) {
		if err := ctl.SetReady(ctx, rep.Seat.ID, ready); err != nil && ctx.Err() == nil {
			fmt.Fprintf(r.Stderr, "tulle: %s: readiness: %v\n", rep.Seat.Name, err)
		}
	}
	p := rep.Seat.Ready
	if rep.App == nil {
		tell(true)
		return
	}
	if p == nil { // a program without a probe is ready when it accepts
		if len(rep.Seat.Expose) == 0 {
			tell(true)
			return
		}
		p = &Probe{Port: rep.Seat.Expose[0].Port, Period: time.Second}
	}
	app := netip.AddrPortFrom(rep.Seat.Address, p.Port)
	for _, e := range rep.Seat.Expose {
		if e.Port == p.Port {
			app = e.App
		}
	}
	p.watch(ctx, app, tell)
}
