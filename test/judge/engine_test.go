package judge

import (
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Engine is a kind of proxy: it starts one for a registered workload and
// returns when it serves. Everything ends with the test. output is what the
// proxy has written so far, its access log.
type Engine struct {
	name  string
	start func(t testing.TB, p *control.Plane, r *control.Registration) (output func() string)
}

// envoyEngine is the stock Envoy, delta or state-of-the-world.
func envoyEngine(delta bool) Engine {
	return Engine{name: "envoy", start: func(t testing.TB, p *control.Plane, r *control.Registration) func() string {
		t.Helper()
		b, err := envoy.Bootstrap(envoy.Node{
			ID: nodeID(r), Delta: delta, Metadata: map[string]string{"authorization": "Bearer " + r.Token},
		}, p.Socket())
		if err != nil {
			t.Fatal(err)
		}
		e := envoy.Start(t, b, false)
		accepted(t, p, r.ID)
		return e.Output
	}}
}

// accepted waits until a proxy has taken all that it was sent, and fails when
// it refused anything.
func accepted(t testing.TB, p *control.Plane, id string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		synced := false
		for _, s := range p.Streams() {
			if s.Key != id {
				continue
			}
			synced = len(s.Types) > 0
			for _, ts := range s.Types {
				if len(ts.Refused) > 0 {
					t.Fatalf("%s refused %s of type %s: %s", id, ts.Refused, ts.Type, ts.Reason)
				}
				synced = synced && ts.Synced()
			}
		}
		if synced {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s is not in step after 20 s: %+v", id, p.Streams())
		}
	}
}
