package standalone

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"time"
)

// Probe is a Kubernetes probe of a standalone program.
type Probe struct {
	HTTPPath string // GET; empty: connect only
	Port     uint16
	Exec     []string
	Initial  time.Duration
	Period   time.Duration // 0: 10 s
	Timeout  time.Duration // 0: 1 s
	Failures int           // in a row that make it not ready; 0: 1
	// dial reaches programs that have a network of their own; nil: this machine's.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// check runs a probe once against the address where the program listens.
func (p *Probe) check(ctx context.Context, app netip.AddrPort) bool {
	timeout := p.Timeout
	if timeout <= 0 {
		timeout = time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case len(p.Exec) > 0:
		return exec.CommandContext(ctx, p.Exec[0], p.Exec[1:]...).Run() == nil
	case p.HTTPPath != "":
		return p.get(ctx, app)
	}
	c, err := p.connect(ctx, "tcp", app.String())
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func (p *Probe) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	if p.dial != nil {
		return p.dial(ctx, network, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// get asks the program alone, whatever the environment says.
func (p *Probe) get(ctx context.Context, app netip.AddrPort) bool {
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil, DialContext: p.connect},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+app.String()+p.HTTPPath, nil)
	if err != nil {
		return false
	}
	req.Header.Set("user-agent", "tulle-probe")
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode >= 200 && resp.StatusCode < 400
}

// watch probes until ctx ends and calls changed with every new verdict. It
// asks quickly until the first success.
func (p *Probe) watch(ctx context.Context, app netip.AddrPort, changed func(ready bool)) {
	period := p.Period
	if period <= 0 {
		period = 10 * time.Second
	}
	limit := max(p.Failures, 1)
	ready, failures := false, 0
	wait := p.Initial
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		ok := p.check(ctx, app)
		switch {
		case ok:
			failures = 0
		default:
			failures++
		}
		if now := ok || ready && failures < limit; now != ready && ctx.Err() == nil {
			ready = now
			changed(ready)
		}
		if wait = period; !ready {
			wait = min(period, 100*time.Millisecond)
		}
	}
}
