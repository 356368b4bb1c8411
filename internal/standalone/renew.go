//go:build linux

package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// renewWithin bounds how long a new proxy may take to serve.
const renewWithin = 30 * time.Second

// Renewals are the signals (SIGUSR2) that ask for a new proxy, of the program
// that is on disk now, in the place of each one that runs; end stops them. From
// the first call on the signal does not end this process.
func Renewals() (asked <-chan os.Signal, end func()) {
	heed()
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR2)
	return c, func() { signal.Stop(c) }
}

// heed keeps the signal from ending the process where nobody waits for it.
func heed() { signal.Notify(make(chan os.Signal, 1), unix.SIGUSR2) }

// renew starts another proxy, which takes over from the running one: that ends
// by itself when its connections have. When the new one does not come to serve
// the old one goes on.
func (r *Run) renew(ctx context.Context, rep *Replica) error {
	next, err := r.launch(rep)
	if err != nil {
		return err
	}
	if err := serves(ctx, rep, next); err != nil {
		next.Stop(0)
		return err
	}
	rep.retired = append(rep.retired, rep.Proxy)
	rep.Proxy = next
	return nil
}

// serves waits until a proxy is the one that serves.
func serves(ctx context.Context, rep *Replica, p *Process) error {
	ctx, cancel := context.WithTimeout(ctx, renewWithin)
	defer cancel()
	c := AdminClient(rep.Admin)
	defer c.CloseIdleConnections()
	for {
		var info struct{ PID int }
		c.CloseIdleConnections() // the next answer may be the new one's
		if page, err := adminPage(ctx, c, "/server_info"); err == nil && json.Unmarshal([]byte(page), &info) == nil && info.PID == p.PID() {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("it ended: %w", errors.Join(errors.New("see its log"), p.Err()))
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("it does not serve after %s", renewWithin)
		}
	}
}

// stopProxies ends the proxy, and those before it that still have connections.
func (rep *Replica) stopProxies(grace time.Duration) {
	done := make(chan struct{})
	for _, p := range rep.retired {
		go func() { p.Stop(grace); done <- struct{}{} }()
	}
	rep.Proxy.Stop(grace)
	for range rep.retired {
		<-done
	}
}
