package control

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Bounds of the registry.
const (
	maxWorkloads = 2000 // at a time
	maxPorts     = 64   // of one workload
	maxLabels    = 64
	maxText      = 253 // of a name, label key or value, in bytes
)

// First port numbers of a workload's own loopback address. They stay below the
// kernel's ephemeral range (32768 and up), and away from what programs like.
const (
	portHTTPProxy = 15080
	portInbound   = 15100 // sockets of the sidecar for peers, one per workload port
	portOutbound  = 16000 // sockets of the sidecar for dependencies, one per service port
	portEnd       = 32000
)

// Errors of Register that a caller may want to tell apart.
var (
	ErrBadSpec = errors.New("bad workload")
	ErrFull    = errors.New("no room for another workload")
	ErrTaken   = errors.New("name is taken")
)

// registry is the standalone workloads. Safe for concurrent use.
type registry struct {
	pool    netip.Prefix // of workload addresses
	domain  string       // trust domain
	changed func()       // called without the lock after every change
	file    string       // where it is kept over a restart; empty: it is not

	mu      sync.Mutex
	byID    map[string]*registered
	byToken map[[sha256.Size]byte]*registered
	used    map[netip.Addr]bool
	serial  map[string]int // last number given to a name's copies
	changes uint64         // counts changes
	gone    []string       // ids that left since the last tell
	keptAt  uint64         // of the last change that the file holds

	services []*model.Service  // that follow has seen
	followed uint64            // the change that it has seen
	listed   []*model.Workload // by name, as of the change listedAt
	listedAt uint64
}

// registered is one workload. Its identity, token and ways of capture are
// immutable; the rest changes under the registry's lock.
type registered struct {
	id       identity.ID
	key      string // namespace/name
	tokenSum [sha256.Size]byte
	uid      uint32
	hasUID   bool
	capture  model.Capture
	proxy    netip.AddrPort
	revoked  chan struct{}
	pid      int // the process that registered it, and its start; 0: not known
	started  string

	lease     uint64
	unclaimed bool // restored, its program has not come back yet

	workload *model.Workload // immutable; replaced as a whole
	local    map[string]netip.AddrPort
	nextPort uint16
}

func newRegistry(pool netip.Prefix, trustDomain string, changed func()) *registry {
	return &registry{
		pool: pool, domain: trustDomain, changed: changed,
		byID: map[string]*registered{}, byToken: map[[sha256.Size]byte]*registered{},
		used: map[netip.Addr]bool{}, serial: map[string]int{},
	}
}

// register makes a place for spec. uid is the user that asked, when known. The
// fragment says what Deployments and Services hold.
func (r *registry) register(spec WorkloadSpec, f *model.Fragment, uid *uint32) (*Registration, error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSpec, err)
	}
	if out, err := r.resume(&spec); out != nil || err != nil {
		return out, err
	}
	w, err := spec.describe(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSpec, err)
	}
	id := identity.ID{TrustDomain: r.domain, Namespace: w.Namespace, Account: w.Account}
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSpec, err)
	}
	raw := make([]byte, 32)
	rand.Read(raw) // never fails
	token := cmp.Or(spec.Token, base64.RawURLEncoding.EncodeToString(raw))

	r.mu.Lock()
	if len(r.byID) >= maxWorkloads {
		r.mu.Unlock()
		return nil, fmt.Errorf("%w: there are %d", ErrFull, len(r.byID))
	}
	if err := r.name(w, spec.Name); err != nil {
		r.mu.Unlock()
		return nil, err
	}
	ip, ok := r.address(spec.IP)
	if !ok {
		r.mu.Unlock()
		return nil, fmt.Errorf("%w: every address of %s is taken", ErrFull, r.pool)
	}
	if spec.Token != "" && ip != spec.IP {
		delete(r.used, ip)
		r.mu.Unlock()
		return nil, fmt.Errorf("%w: its address %s belongs to another program now", ErrTaken, spec.IP)
	}
	w.Address = ip.String()
	x := &registered{
		id: id, key: w.Namespace + "/" + w.Name, tokenSum: sha256.Sum256([]byte(token)),
		revoked: make(chan struct{}), workload: w, pid: spec.PID, started: startOf(spec.PID),
		local: map[string]netip.AddrPort{}, nextPort: portOutbound, capture: model.Redirected,
	}
	if uid != nil {
		x.uid, x.hasUID = *uid, true
	}
	if !spec.Redirected {
		x.capture = model.PortsMode
		if !spec.Gateway {
			x.proxy = netip.AddrPortFrom(ip, portHTTPProxy)
		}
	}
	if x.capture == model.Redirected && !spec.Gateway {
		sameDoor(spec.Ports, ip)
	}
	w.Expose = expose(spec.Ports, w, ip)
	x.adoptLocal(spec.Local, ip)
	x.assign(f)
	r.byID[x.key], r.byToken[x.tokenSum] = x, x
	r.changes++
	out := x.registration(token)
	r.mu.Unlock()
	r.changed()
	return out, nil
}

// name settles the workload's name. A name that was asked for must be free.
func (r *registry) name(w *model.Workload, want string) error {
	defer func() { w.Origin.Name = w.Name }()
	if want != "" {
		w.Name = want
		if r.byID[w.Namespace+"/"+want] != nil {
			return fmt.Errorf("%w: %s/%s", ErrTaken, w.Namespace, want)
		}
		return nil
	}
	base := cmp.Or(w.Owner, w.Labels["app"], w.Account)
	for {
		r.serial[w.Namespace+"/"+base]++
		w.Name = fmt.Sprintf("%s-%d", base, r.serial[w.Namespace+"/"+base])
		if r.byID[w.Namespace+"/"+w.Name] == nil {
			return nil
		}
	}
}

// address takes a free address of the pool, want if it is one.
func (r *registry) address(want netip.Addr) (netip.Addr, bool) {
	if want.IsValid() && r.pool.Contains(want) && !r.used[want] && want != r.pool.Masked().Addr() {
		r.used[want] = true
		return want, true
	}
	for a := r.pool.Masked().Addr().Next(); r.pool.Contains(a); a = a.Next() {
		if b := a.AsSlice(); !r.used[a] && b[len(b)-1] != 0 && b[len(b)-1] != 255 {
			r.used[a] = true
			return a, true
		}
	}
	return netip.Addr{}, false
}

// assign gives each service port that the workload may depend on a socket. It
// reports whether any was new. Sockets are never taken back: a service that
// goes and comes has the same one.
func (x *registered) assign(f *model.Fragment) bool {
	if x.capture != model.PortsMode || x.workload.Gateway {
		return false
	}
	var keys []string
	for _, s := range f.Services {
		if strings.HasPrefix(s.Host, "*") {
			continue
		}
		for _, p := range s.Ports {
			key := fmt.Sprintf("%s:%d", s.Host, p.Number)
			if p.Protocol == model.UDP {
				continue
			}
			if _, have := x.local[key]; !have {
				keys = append(keys, key)
			}
		}
	}
	if len(keys) == 0 {
		return false
	}
	slices.Sort(keys)
	ip := netip.MustParseAddr(x.workload.Address)
	local := maps.Clone(x.local) // clients hold the old map
	for _, k := range slices.Compact(keys) {
		if x.nextPort >= portEnd {
			break
		}
		local[k] = netip.AddrPortFrom(ip, x.nextPort)
		x.nextPort++
	}
	x.local = local
	return true
}

func (x *registered) registration(token string) *Registration {
	w := x.workload
	out := &Registration{
		ID: x.key, Namespace: w.Namespace, Name: w.Name, Account: w.Account, Identity: x.id.String(),
		Labels: w.Labels, Gateway: w.Gateway, IP: netip.MustParseAddr(w.Address), Token: token,
		HTTPProxy: x.proxy, Local: x.local, Probe: w.Probe, lease: x.lease,
	}
	names := map[uint16]string{}
	for n, p := range w.Ports {
		names[p] = n
	}
	for _, e := range w.Expose {
		out.Ports = append(out.Ports, PortSpec{Port: e.Port, Name: names[e.Port], App: e.App, Listen: e.Listen})
	}
	return out
}

func (x *registered) seat() seat { return seat{x.key, x.id, x.revoked} }

// client is what the control plane knows of the workload.
func (x *registered) client() model.Client {
	c := clientOf(x.workload)
	c.Capture, c.Local, c.HTTPProxy = x.capture, x.local, x.proxy
	return c
}

// drop takes a workload out of the mesh and ends its streams; with a lease only
// if that is the present one. It reports whether it did.
func (r *registry) drop(id string, lease *uint64) bool {
	r.mu.Lock()
	x := r.byID[id]
	if x != nil && lease != nil && x.lease != *lease {
		x = nil
	}
	if x != nil {
		r.changes++
		delete(r.byID, id)
		r.gone = append(r.gone, id)
		delete(r.byToken, x.tokenSum)
		delete(r.used, netip.MustParseAddr(x.workload.Address))
		close(x.revoked)
	}
	r.mu.Unlock()
	if x != nil {
		r.changed()
	}
	return x != nil
}

// setReady says whether a workload is to get traffic. It reports whether the
// workload is there.
func (r *registry) setReady(id string, ready bool) bool {
	r.mu.Lock()
	x := r.byID[id]
	change := x != nil && x.workload.Ready != ready
	if change {
		w := *x.workload
		w.Ready = ready
		x.workload = &w
		r.changes++
	}
	r.mu.Unlock()
	if change {
		r.changed()
	}
	return x != nil
}

// follow gives workloads sockets for services that are new in f.
func (r *registry) follow(f *model.Fragment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.followed == r.changes && slices.EqualFunc(r.services, f.Services, samePorts) {
		r.services = f.Services
		return
	}
	r.services = f.Services
	defer func() { r.followed = r.changes }()
	for _, x := range r.byID {
		if x.assign(f) {
			r.changes++
		}
	}
}

// samePorts reports whether two states of a service need the same sockets.
func samePorts(a, b *model.Service) bool {
	return a == b || a.Host == b.Host && slices.Equal(a.Ports, b.Ports)
}

// workloads are the registered ones, as facts for link, in order of name. The list
// is shared.
func (r *registry) workloads() []*model.Workload {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listedAt != r.changes || r.listed == nil {
		r.listed, r.listedAt = nil, r.changes
		for _, k := range slices.Sorted(maps.Keys(r.byID)) {
			r.listed = append(r.listed, r.byID[k].workload)
		}
	}
	return slices.Clip(r.listed)
}

// tell calls set with every workload as a client, and those that have gone since
// with nil, when there were changes since at, which is then brought up to date.
func (r *registry) tell(at *uint64, set func(key string, c *model.Client)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if *at == r.changes && *at > 0 {
		return
	}
	*at = r.changes
	for k, x := range r.byID {
		c := x.client()
		set(k, &c)
	}
	for _, k := range r.gone {
		if r.byID[k] == nil {
			set(k, nil)
		}
	}
	r.gone = nil
}

// find is a registered workload by its id; nil: there is none.
func (r *registry) find(id string) *registered {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[id]
}

// byBearer is the workload whose token this is; nil: no such.
func (r *registry) byBearer(token string) *registered {
	sum := sha256.Sum256([]byte(token)) // a lookup by hash leaks nothing by its time
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byToken[sum]
}

// clientOf is the present client record of a registered workload.
func (r *registry) clientOf(id string) (model.Client, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.byID[id]
	if x == nil {
		return model.Client{}, false
	}
	return x.client(), true
}

// workloadNow is the present facts about x.
func (x *registered) workloadNow(r *registry) *model.Workload {
	r.mu.Lock()
	defer r.mu.Unlock()
	return x.workload
}
