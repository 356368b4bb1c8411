//go:build linux

package standalone

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Defaults of a probe, as Kubernetes has them.
const (
	probePeriod   = 10 * time.Second
	probeTimeout  = time.Second
	probeFailures = 3
	// probeQuick is the longest pause until the first success.
	probeQuick = 100 * time.Millisecond
)

// prober runs the readiness probe of one program.
type prober struct {
	model.Probe
	app netip.AddrPort // where the program listens
	env []string       // of commands
	// dial reaches programs that have a network of their own; nil: this machine's.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	run  func(ctx context.Context, args ...string) error // runs commands beside such programs
}

// check probes once; nil: the program takes requests.
func (p *prober) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(max(p.Timeout, 0), probeTimeout))
	defer cancel()
	switch {
	case len(p.Exec) > 0 && p.run != nil:
		if err := p.run(ctx, p.Exec...); err != nil {
			return fmt.Errorf("command %s: %w", p.Exec[0], err)
		}
		return nil
	case len(p.Exec) > 0:
		c := exec.CommandContext(ctx, p.Exec[0], p.Exec[1:]...)
		c.Env, c.WaitDelay = p.env, time.Second
		if err := c.Run(); err != nil {
			return fmt.Errorf("command %s: %w", p.Exec[0], err)
		}
		return nil
	case p.Path != "":
		return p.get(ctx)
	}
	c, err := p.connect(ctx, "tcp", p.at())
	if err != nil {
		return err
	}
	return c.Close()
}

// at is where the probe connects to.
func (p *prober) at() string {
	if p.Host != "" {
		return net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port)))
	}
	return p.app.String()
}

func (p *prober) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	if p.dial != nil {
		return p.dial(ctx, network, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// get asks the program alone, whatever the environment says.
func (p *prober) get(ctx context.Context) error {
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil, DialContext: p.connect,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // as the kubelet does: it asks whether, not who
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	scheme := "http://"
	if p.TLS {
		scheme = "https://"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+p.at()+p.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "tulle-probe")
	for k, v := range p.Headers {
		if req.Header.Set(k, v); http.CanonicalHeaderKey(k) == "Host" {
			req.Host = v
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("GET %s: %s", p.Path, resp.Status)
	}
	return nil
}

// watch probes until ctx ends and calls changed with every new verdict, and
// why. It asks quickly until the first success.
func (p *prober) watch(ctx context.Context, changed func(ready bool, why error)) {
	period := cmp.Or(max(p.Period, 0), probePeriod)
	limits := map[bool]uint32{true: cmp.Or(p.Failures, probeFailures), false: cmp.Or(p.Success, 1)}
	ready, row, once := false, uint32(0), false
	for wait := p.Initial; pause(ctx, wait); {
		err := p.check(ctx)
		if ctx.Err() != nil {
			return
		}
		if (err == nil) == ready {
			row = 0
		} else if row++; row >= limits[ready] {
			ready, row, once = !ready, 0, true
			changed(ready, err)
		}
		if wait = period; !once {
			wait = min(period, probeQuick)
		}
	}
}

// probeOf is the probe of a replica: what the caller said, what the Deployment
// says, or whether the first port accepts; nil: there is nothing to ask.
func (r *Run) probeOf(rep *Replica) *prober {
	var p prober
	switch {
	case r.Probe != nil:
		p.Probe = *r.Probe
	case rep.Probe != nil:
		p.Probe = *rep.Probe
	case len(rep.Ports) > 0:
		p.Probe = model.Probe{Port: rep.Ports[0].Port, Period: time.Second, Failures: 1}
	default:
		return nil
	}
	if rep.place != nil {
		p.dial, p.run = rep.place.dial, rep.place.run
	}
	p.env = append(r.Env[:len(r.Env):len(r.Env)], environment(rep)...)
	p.app = netip.AddrPortFrom(rep.IP, p.Port)
	for _, e := range rep.Ports {
		if e.Port == p.Port {
			p.app = e.App
		}
	}
	return &p
}

// unreadyAfter is how long a program may take before people are told why it
// gets no requests.
const unreadyAfter = 3 * time.Second

// announce tells the control plane when the program takes requests, and people
// when it does not.
func (r *Run) announce(ctx context.Context, m *member, rep *Replica) {
	tell := func(ready bool) {
		if err := m.setReady(ctx, ready); err != nil && ctx.Err() == nil {
			r.say("%s: readiness: %v", rep.Name, err)
		}
	}
	var p *prober
	if rep.App != nil {
		p = r.probeOf(rep)
	}
	if p == nil {
		tell(true)
		return
	}
	ever := make(chan struct{})
	go func() {
		t := time.NewTimer(unreadyAfter + p.Initial)
		defer t.Stop()
		select {
		case <-ever:
		case <-ctx.Done():
		case <-t.C:
			if err := p.check(ctx); err != nil && ctx.Err() == nil {
				r.say("%s gets no requests yet: %s", rep.Name, whyNot(rep, p, err))
			}
		}
	}()
	first := true
	p.watch(ctx, func(ready bool, why error) {
		tell(ready)
		switch {
		case first:
			first = false
			close(ever)
		case ready:
			r.say("%s is ready again", rep.Name)
		default:
			r.say("%s gets no requests: its probe failed: %v", rep.Name, why)
		}
	})
}

// whyNot says what is wrong with a program whose probe fails, from where it
// really listens.
func whyNot(rep *Replica, p *prober, err error) string {
	if !errors.Is(err, syscall.ECONNREFUSED) || p.Host != "" {
		return err.Error()
	}
	have := listening(append(descendants(rep.App.PID()), rep.App.PID()))
	want := p.app
	for _, a := range have {
		if a.Port() != want.Port() {
			continue
		}
		if a.Addr().IsUnspecified() || a.Addr() == want.Addr() {
			return err.Error() // it has begun just now, or does not accept
		}
		return fmt.Sprintf("the program listens on %s and is expected at %s ($HOST:$PORT); let it listen there or on all addresses, or add --listen-on %s", a, want, a.Addr())
	}
	if len(have) > 0 {
		return fmt.Sprintf("the program listens on %s and is expected at %s ($HOST:$PORT); if that is its port, add --port %d", have[0], want, have[0].Port())
	}
	return fmt.Sprintf("the program does not listen; it is expected at %s ($HOST:$PORT)", want)
}
