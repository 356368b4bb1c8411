//go:build linux

package standalone

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/api"
	"github.com/tulle-mesh/tulle/internal/control"
)

// Times between two attempts to join again.
const (
	firstRejoin = 100 * time.Millisecond
	lastRejoin  = time.Second
)

// member keeps a replica's place in the mesh, over restarts of the control
// plane too: program and sidecar go on meanwhile. Safe for concurrent use.
type member struct {
	ctl  *api.Client
	spec control.WorkloadSpec
	log  func(format string, args ...any)

	mu        sync.Mutex
	lease     *api.Lease
	tokenFile string // where the sidecar reads its token; empty: none yet
	ready     bool
	local     map[string]netip.AddrPort // the sockets of its dependencies
}

// join takes a place. It waits for a control plane that has just started.
func join(ctx context.Context, ctl *api.Client, spec control.WorkloadSpec, log func(string, ...any)) (*member, error) {
	for end := time.Now().Add(10 * time.Second); ; {
		lease, err := ctl.Register(context.WithoutCancel(ctx), spec)
		if err == nil {
			return &member{ctl: ctl, spec: spec, log: log, lease: lease, ready: spec.Ready, local: lease.Local}, nil
		}
		if !errors.Is(err, api.ErrNotReady) || time.Now().After(end) || !pause(ctx, firstRejoin) {
			return nil, err
		}
	}
}

// pause reports false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// keep joins again whenever the control plane went away, until ctx ends.
func (m *member) keep(ctx context.Context) {
	for {
		m.mu.Lock()
		lease := m.lease
		m.mu.Unlock()
		for open := true; open; {
			select {
			case e, more := <-lease.Events:
				if open = more; e.Local != nil {
					m.mu.Lock()
					m.local = e.Local
					m.mu.Unlock()
				}
			case <-ctx.Done():
				return
			}
		}
		if ctx.Err() != nil || !m.rejoin(ctx, lease) {
			return
		}
	}
}

// rejoin continues the lease that ended; false: ctx has ended first.
func (m *member) rejoin(ctx context.Context, old *api.Lease) bool {
	m.log("%s: the control plane is gone; the program goes on with the last configuration until it is back", old.Name)
	told := ""
	for wait := firstRejoin; pause(ctx, wait); wait = min(wait*5/4, lastRejoin) {
		lease, err := m.again(ctx, old)
		if err != nil {
			quiet := errors.Is(err, api.ErrNoControlPlane) || errors.Is(err, api.ErrNotReady) || errors.Is(err, api.ErrLost)
			if text := err.Error(); !quiet && text != told && ctx.Err() == nil {
				told = text
				m.log("%s: cannot join the mesh again: %s; it goes on, and tries again", old.Name, text)
			}
			continue
		}
		m.log("%s: the control plane is back", lease.Name)
		return true
	}
	return false
}

// again registers as what the replica was, at the addresses that it had.
func (m *member) again(ctx context.Context, old *api.Lease) (*api.Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.spec
	s.Name, s.Token, s.IP, s.Ports, s.Ready = old.Name, old.Token, old.IP, old.Ports, m.ready
	s.Labels, s.Account = old.Labels, old.Account
	s.Local = m.local
	lease, err := m.ctl.Register(context.WithoutCancel(ctx), s)
	if err != nil {
		return nil, err
	}
	m.lease = lease
	if lease.Token != old.Token && m.tokenFile != "" {
		err = replaceFile(m.tokenFile, []byte(lease.Token))
	}
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return lease, nil
}

// replaceFile writes a file (0600) whole or not at all.
func replaceFile(path string, b []byte) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	err := os.WriteFile(tmp, b, 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// setReady says whether the program takes requests. While the control plane is
// away it is noted, and told with the next join.
func (m *member) setReady(ctx context.Context, ready bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = ready
	err := m.ctl.SetReady(ctx, m.lease.ID, ready)
	if errors.Is(err, api.ErrNoControlPlane) || errors.Is(err, api.ErrLost) {
		return nil
	}
	return err
}

// close gives the place back. keep has ended.
func (m *member) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lease.Close()
}
