package explain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/listen/match"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// side is one proxy on the way, with the configuration it would run.
type side struct {
	name     string // namespace/name
	view     *model.View
	snap     *conf.Snapshot
	index    *match.Index
	clusters *cluster.Registry
	origins  map[string]model.Origin
	answer   *Answer
	entry    model.Origin // of the listener that took the connection
}

// offline resolves nothing: explain works without a network.
type offline struct{}

func (offline) Lookup(context.Context, string, string) ([]netip.Addr, error) {
	return nil, errors.New("no network")
}

// newSide lowers a view and decodes the result as the proxy would. A resource
// that the proxy would refuse is told in a step and left out, as there.
func newSide(name string, v *model.View, a *Answer) *side {
	out, _ := lower.Lower(v)
	s := &side{name: name, view: v, origins: out.Origins, answer: a, snap: &conf.Snapshot{
		Listeners: map[string]*conf.Listener{}, Routes: map[string]*conf.RouteTable{}, Clusters: map[string]*conf.Cluster{},
		Endpoints: map[string]*conf.Endpoints{}, Secrets: map[string]*conf.Secret{},
	}}
	for _, t := range lower.Types {
		for _, r := range out.Resources[t] {
			n, err := conf.Decode(t, r.Name, r.Body)
			if err != nil {
				s.step("configuration", "refused", fmt.Sprintf("the proxy would not accept %s: %v", r.Name, err))
				continue
			}
			switch n := n.(type) {
			case *conf.Listener:
				s.snap.Listeners[r.Name] = n
			case *conf.RouteTable:
				s.snap.Routes[r.Name] = n
			case *conf.Cluster:
				s.snap.Clusters[r.Name] = n
			case *conf.Endpoints:
				s.snap.Endpoints[r.Name] = n
			case *conf.Secret:
				s.snap.Secrets[r.Name] = n
			}
		}
	}
	s.index = match.NewIndex(s.snap.Listeners)
	s.clusters = cluster.New(cluster.Options{Resolver: offline{}})
	s.clusters.Apply(s.snap, 0)
	return s
}

func (s *side) close() { s.clusters.Close() }

// step adds a step that no object of the user's decided.
func (s *side) step(stage, verdict, text string) { s.stepAt(stage, verdict, text, model.Origin{}) }

// stepAt adds a step with the object that decided.
func (s *side) stepAt(stage, verdict, text string, o model.Origin) {
	st := Step{Proxy: s.name, Stage: stage, Verdict: verdict, Why: text}
	if o.Kind != "" {
		st.Object, st.Field, st.File, st.Line = o.Object(), o.Field, o.File, o.Line
	}
	s.answer.Steps = append(s.answer.Steps, st)
}

// tell takes over what a decision said of itself. With only the outcome wanted
// of a stage (brief), what did not match is left out unless nothing matched.
func (s *side) tell(w *why.Why, brief bool) {
	found := false
	for _, st := range w.Steps {
		found = found || st.Verdict == "matched"
	}
	for _, st := range w.Steps {
		if brief && found && st.Verdict == "no_match" {
			continue
		}
		s.stepAt(st.Stage, st.Verdict, st.Text, s.origins[st.Origin])
	}
	w.Steps = nil
}

// origin finds what an origin id stands for; the zero Origin when unknown.
func (s *side) origin(id string) model.Origin { return s.origins[id] }
