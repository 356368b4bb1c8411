package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Standalone programs outlive their control plane. So that the first mesh after
// a restart already holds them, and no proxy is told that its peers are gone,
// the registry is kept in a file. What was read from it waits for its program
// to claim it, and is dropped when that program has ended or does not come.

// claimWithin is how long a program may take to come back after a restart.
const claimWithin = 15 * time.Second

// keptFormat is the version of the file's format.
const keptFormat = 1

type keptFile struct {
	Format    int            `json:"format"`
	Workloads []keptWorkload `json:"workloads"`
}

// keptWorkload is a registered workload; of its token only the hash.
type keptWorkload struct {
	Workload   *model.Workload           `json:"workload"`
	Token      []byte                    `json:"token"`
	UID        *uint32                   `json:"uid,omitempty"`
	PID        int                       `json:"pid,omitempty"`
	Started    string                    `json:"started,omitempty"`
	Redirected bool                      `json:"redirected,omitempty"`
	Proxy      netip.AddrPort            `json:"proxy,omitzero"`
	Local      map[string]netip.AddrPort `json:"local,omitempty"`
}

// keep writes the registry to its file when it has changed since the last call.
func (r *registry) keep() error {
	if r.file == "" {
		return nil
	}
	r.mu.Lock()
	if r.keptAt == r.changes {
		r.mu.Unlock()
		return nil
	}
	at := r.changes
	out := keptFile{Format: keptFormat}
	for _, x := range r.byID {
		k := keptWorkload{Workload: x.workload, Token: x.tokenSum[:], PID: x.pid, Started: x.started,
			Redirected: x.capture == model.Redirected, Proxy: x.proxy, Local: x.local}
		if x.hasUID {
			k.UID = &x.uid
		}
		out.Workloads = append(out.Workloads, k)
	}
	r.mu.Unlock()
	slices.SortFunc(out.Workloads, func(a, b keptWorkload) int {
		return a.Workload.Origin.Created.Compare(b.Workload.Origin.Created)
	})
	b, err := json.Marshal(out)
	if err == nil {
		err = replaceFile(r.file, b)
	}
	if err != nil {
		return fmt.Errorf("the programs of this mesh are not kept for a restart: %w", err)
	}
	r.mu.Lock()
	r.keptAt = at
	r.mu.Unlock()
	return nil
}

// replaceFile writes a file (0600) whole or not at all. It is not made to last
// over a crash of the machine, which no program survives.
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

// readKept reads what keep wrote; nothing when there is no such file.
func readKept(file string) (in keptFile, err error) {
	b, err := os.ReadFile(file)
	if file == "" || errors.Is(err, fs.ErrNotExist) {
		return keptFile{}, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	if err == nil && in.Format != keptFormat {
		err = fmt.Errorf("%s: unknown format %d", file, in.Format)
	}
	if err != nil {
		return keptFile{}, fmt.Errorf("programs of an earlier run: %w", err)
	}
	return in, nil
}

// address is one that was given to a workload, invalid when there is none.
func (f *keptFile) address() netip.Addr {
	for _, k := range f.Workloads {
		if k.Workload != nil {
			if a, err := netip.ParseAddr(k.Workload.Address); err == nil {
				return a
			}
		}
	}
	return netip.Addr{}
}

// restore takes up what was kept, leaving out programs that have ended. It is
// called once, before anybody registers.
func (r *registry) restore(in keptFile) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range in.Workloads {
		r.take(k)
	}
}

// take restores one workload, if all about it makes sense. The lock is held.
func (r *registry) take(k keptWorkload) {
	if k.Workload == nil || len(k.Token) != sha256.Size || len(r.byID) >= maxWorkloads || !sameProcess(k.PID, k.Started) {
		return
	}
	w := k.Workload
	ip, err := netip.ParseAddr(w.Address)
	key := w.Namespace + "/" + w.Name
	if err != nil || !r.pool.Contains(ip) || r.used[ip] || r.byID[key] != nil {
		return
	}
	if w.Labels == nil {
		w.Labels = map[string]string{}
	}
	x := &registered{key: key, workload: w, tokenSum: [sha256.Size]byte(k.Token), revoked: make(chan struct{}),
		pid: k.PID, started: k.Started, unclaimed: true, capture: model.Redirected, proxy: k.Proxy,
		local: map[string]netip.AddrPort{}, nextPort: portOutbound}
	x.id.TrustDomain, x.id.Namespace, x.id.Account = r.domain, w.Namespace, w.Account
	if x.id.Validate() != nil {
		return
	}
	if !k.Redirected {
		x.capture = model.PortsMode
	}
	if k.UID != nil {
		x.uid, x.hasUID = *k.UID, true
	}
	x.adoptLocal(k.Local, ip)
	r.used[ip], r.byID[key], r.byToken[x.tokenSum] = true, x, x
}

// adoptLocal gives a workload the sockets that it had before.
func (x *registered) adoptLocal(local map[string]netip.AddrPort, ip netip.Addr) {
	taken := map[uint16]bool{}
	for name, a := range local {
		if a.Addr() != ip || a.Port() < portOutbound || a.Port() >= portEnd || taken[a.Port()] {
			continue
		}
		taken[a.Port()] = true
		x.local[name] = a
		x.nextPort = max(x.nextPort, a.Port()+1)
	}
}

// resume continues the registration whose token is shown: nil when there is
// none with it.
func (r *registry) resume(spec *WorkloadSpec) (*Registration, error) {
	if spec.Token == "" {
		return nil, nil
	}
	defer r.changed() // after the lock is given back
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.byToken[sha256.Sum256([]byte(spec.Token))]
	if x == nil {
		return nil, nil
	}
	if x.key != spec.Namespace+"/"+spec.Name {
		return nil, fmt.Errorf("%w: the token is that of %s", ErrTaken, x.key)
	}
	w := *x.workload
	w.Ready = spec.Ready
	x.workload, x.unclaimed, x.pid, x.started = &w, false, spec.PID, startOf(spec.PID)
	x.lease++
	r.changes++
	return x.registration(spec.Token), nil
}

// expire drops restored workloads whose program has ended, or late ones all.
// It reports how many still wait, and whom it dropped.
func (r *registry) expire(late bool) (waiting int, dropped []string) {
	gone := map[string]uint64{}
	r.mu.Lock()
	for key, x := range r.byID {
		switch {
		case !x.unclaimed:
		case late || !sameProcess(x.pid, x.started):
			gone[key] = x.lease
		default:
			waiting++
		}
	}
	r.mu.Unlock()
	for key, lease := range gone {
		if r.drop(key, &lease) {
			dropped = append(dropped, key)
		}
	}
	slices.Sort(dropped)
	return waiting, dropped
}

// await drops what nobody claims after a restart.
func (p *Plane) await(ctx context.Context) {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for end := time.Now().Add(claimWithin); ; {
		late := time.Now().After(end)
		waiting, dropped := p.registry.expire(late)
		for _, k := range dropped {
			p.log("%s ran under an earlier control plane and did not come back", k)
		}
		if waiting == 0 || late {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Leave ends a registration, unless its program has registered again since. It
// reports whether it did.
func (p *Plane) Leave(reg *Registration) bool { return p.registry.drop(reg.ID, &reg.lease) }
