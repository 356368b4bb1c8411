package control

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// proxyAgent is the user agent of tulle-proxy, which makes its own key and has
// it signed. Other clients get key and certificate from SDS.
const proxyAgent = "tulle-proxy"

// session is one connected client. Safe for concurrent use.
type session struct {
	p        *Plane
	x        *registered
	grpc     bool // a grpc library, which has another dialect of xDS
	own      bool // makes its own key
	features []string

	sets watch.Value[*xds.Set]

	mu       sync.Mutex // held while computing
	set      *xds.Set
	origins  []map[string]model.Origin // by origin id
	notices  []model.Notice
	rejected map[[2]string]rejection // by type URL and name
	pair     *keyPair                // nil when own
	renew    *time.Timer
	closed   bool
}

// rejection is a refused resource, as a notice, until its version changes.
type rejection struct {
	version string
	notices []model.Notice
}

// open implements xds.Config.Open.
func (p *Plane) open(x *registered, n *xds.Node) (*xds.Feed, error) {
	s := &session{
		p: p, x: x, features: n.Features, rejected: map[[2]string]rejection{},
		grpc: n.Metadata["GENERATOR"] == "grpc", own: n.UserAgent == proxyAgent,
	}
	if !s.own && !s.grpc {
		if err := s.issue(); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	p.sessions[s] = struct{}{}
	p.mu.Unlock()
	// A client must never take "not yet" for "nothing".
	g, _ := p.generation.Get()
	if g != nil {
		s.update(g)
	}
	if set, _ := s.sets.Get(); set == nil {
		s.close()
		return nil, fmt.Errorf("%w: no configuration for it yet", xds.ErrUnknown)
	}
	return &xds.Feed{Key: x.key, Get: s.sets.Get, Rejected: s.refused, Gone: x.revoked, Close: s.close}, nil
}

func (s *session) close() {
	s.p.mu.Lock()
	delete(s.p.sessions, s)
	s.p.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.renew != nil {
		s.renew.Stop()
	}
}

// issue makes a new key and certificate, and plans for the next.
func (s *session) issue() error {
	pair, err := issue(s.p.ca, s.x.id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pair = pair
	if !s.closed {
		s.renew = time.AfterFunc(time.Until(pair.renew), func() {
			if err := s.issue(); err != nil {
				s.p.log("certificate of %s: %v", s.x.key, err)
			}
			if g, _ := s.p.generation.Get(); g != nil {
				s.update(g)
			}
		})
	}
	return nil
}

// update brings the client's set to a generation. A set that did not change is
// not published, so that a comment on top of a file pushes nothing.
func (s *session) update(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	client, ok := s.p.registry.clientOf(s.x.key)
	if !ok || s.closed {
		return
	}
	client.Features = s.features
	m, err := s.lower(g, client)
	if err != nil {
		s.p.log("configuration of %s: %v; the last good one stays", s.x.key, err)
		return
	}
	s.origins, s.notices = m.origins, m.notices
	set := m.set
	for k, r := range s.rejected {
		if now := set.Find(k[0], k[1]); now == nil || now.Version != r.version {
			delete(s.rejected, k)
		}
	}
	if s.set != nil && set.Same(s.set) {
		return
	}
	s.set = set
	s.sets.Set(set)
}

// lower makes the client's set. A panic in a pure stage is our bug and must
// not end the control plane: the client keeps what it has.
func (s *session) lower(g *generation, client model.Client) (m *made, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("BUG: %v", r)
		}
	}()
	if s.grpc {
		client.Capture, client.Local, client.HTTPProxy = model.Redirected, nil, netip.AddrPort{}
		out, notices := lower.GRPC(g.mesh().View(client))
		var rs []xds.Resource
		for _, url := range lower.Types {
			for _, r := range out.Resources[url] {
				rs = append(rs, opaque(r))
			}
		}
		return &made{xds.NewSet(g.version, s.set, rs), []map[string]model.Origin{out.Origins}, notices}, nil
	}
	base := g.base(client)
	if base.set == nil {
		return nil, errors.New("what it shares with others could not be made")
	}
	view := g.mesh().View(client)
	l := lower.New(view)
	own := []xds.Resource{opaque(lower.Roots(s.p.ca.Bundle()))}
	if s.own && client.Role == model.Sidecar && client.Capture == model.Redirected {
		own = append(own, opaque(lower.NameTable(view)))
	}
	if s.pair != nil {
		own = append(own, opaque(lower.WorkloadCertificate(s.pair.chain, s.pair.key)))
	}
	for _, url := range lower.Types {
		for _, name := range l.Names(url) {
			if shared(client, url, name) {
				continue
			}
			if r, ok := l.Resource(url, name); ok {
				own = append(own, opaque(r))
			}
		}
	}
	return &made{
		base.set.With(g.version, s.set, own),
		[]map[string]model.Origin{base.origins, l.Origins()},
		append(slices.Clone(base.notices), l.Notices()...),
	}, nil
}

// made is what was made for one client, or for what many clients share.
type made struct {
	set     *xds.Set
	origins []map[string]model.Origin // by origin id
	notices []model.Notice
}

func opaque(r lower.Resource) xds.Resource {
	return xds.Resource{Type: r.Type, Name: r.Name, Body: r.Body}
}

// refused turns a rejection into notices on the objects that the resource was
// made from. Called by the stream, which waits while the client's next set is
// being computed.
func (s *session) refused(r xds.Rejection) {
	short := r.Type[strings.LastIndexByte(r.Type, '.')+1:]
	text := fmt.Sprintf("the proxy of %s refused %s %s: %s", s.x.key, short, r.Name, r.Reason)
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []model.Notice
	for _, o := range s.origin(r) {
		list = append(list, model.Notice{Severity: model.Error, Reason: model.Rejected, Origin: o, Text: text})
	}
	if list == nil {
		list = []model.Notice{{Severity: model.Error, Reason: model.Rejected, Text: text}}
	}
	s.rejected[[2]string{r.Type, r.Name}] = rejection{r.Version, list}
	s.p.log("%s", text)
}

// origin finds what a refused resource was made from: the origin ids stand in
// its bytes.
func (s *session) origin(r xds.Rejection) []model.Origin {
	res := s.set.Find(r.Type, r.Name)
	if res == nil {
		return nil
	}
	var ids []string
	all := map[string]model.Origin{}
	for _, m := range s.origins {
		for id, o := range m {
			if bytes.Contains(res.Body, []byte(id)) {
				ids = append(ids, id)
				all[id] = o
			}
		}
	}
	// An id is often the beginning of another (object and field): the longest say
	// most.
	slices.SortFunc(ids, func(a, b string) int { return len(b) - len(a) })
	var out []model.Origin
	var kept []string
	for _, id := range ids {
		if !slices.ContainsFunc(kept, func(k string) bool { return strings.HasPrefix(k, id) }) {
			kept = append(kept, id)
			out = append(out, all[id])
		}
	}
	slices.SortFunc(out, func(a, b model.Origin) int { return strings.Compare(a.ID(), b.ID()) })
	return out
}

func (s *session) allNotices() []model.Notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.notices)
	for _, r := range s.rejected {
		out = append(out, r.notices...)
	}
	return out
}

// generation is one compiled state of the mesh. Immutable but for the memo of
// what clients share.
type generation struct {
	version  string
	when     time.Time
	compiled *Compiled
	notices  []model.Notice

	mu    sync.Mutex
	bases map[string]*base
	old   map[string]*xds.Set // bases of the generation before
}

// base is what all clients of one key have in common.
type base struct {
	once    sync.Once
	set     *xds.Set
	origins map[string]model.Origin
	notices []model.Notice
}

func (g *generation) mesh() *link.Mesh { return g.compiled.Mesh }

// base lowers what depends on the scope key, and on the client's address
// families, alone: once for all clients that agree in these.
func (g *generation) base(client model.Client) *base {
	v4, v6 := false, false
	for _, a := range client.Addresses {
		v4, v6 = v4 || a.Is4(), v6 || a.Is6()
	}
	key := fmt.Sprint(g.mesh().ScopeKey(client), v4, v6)
	g.mu.Lock()
	b := g.bases[key]
	if b == nil {
		b = &base{}
		g.bases[key] = b
	}
	old := g.old[key]
	g.mu.Unlock()
	b.once.Do(func() {
		l := lower.New(g.mesh().View(client))
		var rs []xds.Resource
		for _, url := range lower.Types {
			for _, name := range l.Names(url) {
				if !shared(client, url, name) {
					continue
				}
				if r, ok := l.Resource(url, name); ok {
					rs = append(rs, opaque(r))
				}
			}
		}
		set := xds.NewSet(g.version, old, rs)
		g.mu.Lock()
		defer g.mu.Unlock()
		b.set, b.origins, b.notices = set, l.Origins(), l.Notices()
	})
	return b
}

// sets are the bases that were made, for the generation after.
func (g *generation) sets() map[string]*xds.Set {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]*xds.Set{}
	for k, b := range g.bases {
		if b.set != nil {
			out[k] = b.set
		}
	}
	return out
}

// shared reports whether a resource of a client is in its base. What says who
// may come in is the client's own, and so are its gateway's listeners, which
// carry its policies.
func shared(c model.Client, url, name string) bool {
	switch url {
	case lower.ClusterType:
		return strings.HasPrefix(name, "outbound|")
	case lower.EndpointType, lower.RouteType:
		return true
	case lower.ListenerType:
		return c.Role == model.Sidecar && c.Capture == model.Redirected && name != "virtualInbound" && !strings.HasPrefix(name, "inbound_")
	}
	return false
}
