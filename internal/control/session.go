package control

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
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
	at       seat
	grpc     bool // a grpc library, which has another dialect of xDS
	own      bool // makes its own key
	features []string
	demand   bool // asks for what it uses

	asks []ask // names that it asks for, in the order of asking; under the Plane's memoMu

	sets watch.Value[*xds.Set]

	mu       sync.Mutex
	made     *made                   // behind the newest of sets
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
func (p *Plane) open(at seat, n *xds.Node) (*xds.Feed, error) {
	s := &session{
		p: p, at: at, features: n.Features, rejected: map[[2]string]rejection{},
		grpc: n.Metadata["GENERATOR"] == "grpc", own: n.UserAgent == proxyAgent,
	}
	if i := slices.Index(s.features, ext.Demand); i >= 0 {
		s.features = slices.Delete(slices.Clone(s.features), i, i+1) // scopes do not differ by it
		c, known := p.registry.clientOf(at.key)
		if !known && p.pods != nil {
			c, known = p.pods.clientOf(at.key)
		}
		s.demand = known && n.Delta && s.own && c.Role == model.Sidecar && c.Capture == model.Redirected
	}
	if !s.own && !s.grpc {
		if err := s.issue(); err != nil {
			return nil, err
		}
	}
	// A client must never take "not yet" for "nothing".
	if !p.join(s) {
		s.close()
		return nil, fmt.Errorf("%w: no configuration for it yet", xds.ErrUnknown)
	}
	f := &xds.Feed{Key: at.key, Get: s.sets.Get, Rejected: s.refused, Gone: at.gone, Close: s.close}
	if s.demand {
		f.Ask = s.ask
	}
	return f, nil
}

func (s *session) close() {
	s.p.leave(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.renew != nil {
		s.renew.Stop()
	}
}

// issue makes a new key and certificate, and plans for the next.
func (s *session) issue() error {
	pair, err := issue(s.p.ca, s.at.id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pair = pair
	if !s.closed {
		s.renew = time.AfterFunc(time.Until(pair.renew), func() {
			if err := s.issue(); err != nil {
				s.p.log("certificate of %s: %v", s.at.key, err)
			}
			s.p.rekey(s)
		})
	}
	return nil
}

// keyPair is the present one; nil when the client makes its own.
func (s *session) keyPair() *keyPair {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pair
}

// publish hands a set to the client. One that did not change is not handed on,
// so that a comment on top of a file pushes nothing.
func (s *session) publish(m *made) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for k, r := range s.rejected {
		if now := m.set.Find(k[0], k[1]); now == nil || now.Version != r.version {
			delete(s.rejected, k)
		}
	}
	same := s.made != nil && m.set.Same(s.made.set)
	s.made = m
	if !same {
		s.sets.Set(m.set)
	}
}

// refused turns a rejection into notices on the objects that the resource was
// made from. Called by the stream, which waits while the client's next set is
// being computed.
func (s *session) refused(r xds.Rejection) {
	short := r.Type[strings.LastIndexByte(r.Type, '.')+1:]
	text := fmt.Sprintf("the proxy of %s refused %s %s: %s", s.at.key, short, r.Name, r.Reason)
	s.p.memoMu.Lock()
	defer s.p.memoMu.Unlock()
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
	res := s.made.set.Find(r.Type, r.Name)
	if res == nil {
		return nil
	}
	var ids []string
	all := map[string]model.Origin{}
	for _, w := range s.made.parts() {
		for id, o := range w.origins {
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

// allNotices needs the Plane's memoMu.
func (s *session) allNotices() []model.Notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []model.Notice
	if s.made != nil {
		for _, w := range s.made.parts() {
			out = append(out, w.notices...)
		}
	}
	for _, r := range s.rejected {
		out = append(out, r.notices...)
	}
	return out
}
