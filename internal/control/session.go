package control

import (
	"bytes"
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
	origins  map[string]model.Origin // by origin id
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
	resources, origins, notices, err := s.lower(g, client)
	if err != nil {
		s.p.log("configuration of %s: %v; the last good one stays", s.x.key, err)
		return
	}
	s.origins, s.notices = origins, notices
	set := xds.NewSet(g.version, s.set, resources)
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

// lower makes the client's resources. A panic in a pure stage is our bug and
// must not end the control plane: the client keeps what it has.
func (s *session) lower(g *generation, client model.Client) (rs []xds.Resource, origins map[string]model.Origin, notices []model.Notice, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("BUG: %v", r)
		}
	}()
	var made []lower.Resource
	if s.grpc {
		client.Capture, client.Local, client.HTTPProxy = model.Redirected, nil, netip.AddrPort{}
		out, n := lower.GRPC(g.mesh().View(client))
		for _, url := range lower.Types {
			made = append(made, out.Resources[url]...)
		}
		origins, notices = out.Origins, n
	} else {
		made, origins, notices = g.resources(client)
		made = append(made, lower.Roots(s.p.ca.Bundle()))
		if s.pair != nil {
			made = append(made, lower.WorkloadCertificate(s.pair.chain, s.pair.key))
		}
	}
	for _, r := range made {
		rs = append(rs, xds.Resource{Type: r.Type, Name: r.Name, Body: r.Body})
	}
	return rs, origins, notices, nil
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
	for id := range s.origins {
		if bytes.Contains(res.Body, []byte(id)) {
			ids = append(ids, id)
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
			out = append(out, s.origins[id])
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

	mu     sync.Mutex
	shared map[string]*scopeMemo // by scope key
}

// scopeMemo is what all clients of one scope key have in common.
type scopeMemo struct {
	mu        sync.Mutex
	resources map[[2]string]lower.Resource
	origins   map[string]model.Origin
	notices   []model.Notice
}

func (g *generation) mesh() *link.Mesh { return g.compiled.Mesh }

// resources lowers a client's view. What depends on the scope key alone, which
// is all but the client's own listeners and inbound clusters, is lowered once
// for all clients of the key.
func (g *generation) resources(client model.Client) ([]lower.Resource, map[string]model.Origin, []model.Notice) {
	memo := g.scope(g.mesh().ScopeKey(client))
	l := lower.New(g.mesh().View(client))
	var out []lower.Resource
	memo.mu.Lock()
	defer memo.mu.Unlock()
	for _, url := range lower.Types {
		for _, name := range l.Names(url) {
			if !scoped(url, name) {
				if r, ok := l.Resource(url, name); ok {
					out = append(out, r)
				}
				continue
			}
			k := [2]string{url, name}
			r, ok := memo.resources[k]
			if !ok {
				if r, ok = l.Resource(url, name); !ok {
					continue
				}
				memo.resources[k] = r
			}
			out = append(out, r)
		}
	}
	// Origins and notices of shared resources come with whoever lowered them.
	own := l.Origins()
	for id, o := range own {
		memo.origins[id] = o
	}
	origins := make(map[string]model.Origin, len(memo.origins))
	for id, o := range memo.origins {
		origins[id] = o
	}
	memo.notices = append(memo.notices, l.Notices()...)
	return out, origins, slices.Clone(memo.notices)
}

// scoped reports whether a resource depends on nothing but the scope key.
func scoped(url, name string) bool {
	switch url {
	case lower.ClusterType:
		return strings.HasPrefix(name, "outbound|")
	case lower.EndpointType, lower.RouteType:
		return true
	}
	return false
}

func (g *generation) scope(key string) *scopeMemo {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.shared[key]
	if m == nil {
		m = &scopeMemo{resources: map[[2]string]lower.Resource{}, origins: map[string]model.Origin{}}
		g.shared[key] = m
	}
	return m
}
