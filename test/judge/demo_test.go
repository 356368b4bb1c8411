package judge

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// TestDemo: a stock Envoy takes the demo's configuration without refusing
// anything, in every place that a proxy can have.
func TestDemo(t *testing.T) {
	p := plane(t, "../../internal/demo/mesh")
	places := map[string]control.WorkloadSpec{
		"gateway": {Name: "gw", Labels: map[string]string{"istio": "ingressgateway"}, Gateway: true,
			Ports: []control.PortSpec{{Port: 80}}},
		"sidecar in ports mode":      {Name: "orders", Deployment: "orders"},
		"sidecar, captured":          {Name: "payments", Deployment: "payments", Redirected: true},
		"sidecar, captured, raw TCP": {Name: "ledger", Deployment: "ledger", Redirected: true},
	}
	regs := map[string]*control.Registration{}
	for name, spec := range places {
		spec.Namespace = "shop"
		regs[name] = place(t, p, spec)
		placed(t, p, regs[name])
	}
	for name, r := range regs {
		t.Run(name, func(t *testing.T) {
			for _, delta := range []bool{true, false} {
				b, err := envoy.Bootstrap(envoy.Node{
					ID: nodeID(r), Delta: delta, Metadata: map[string]string{"authorization": "Bearer " + r.Token},
				}, p.Socket())
				if err != nil {
					t.Fatal(err)
				}
				envoy.Start(t, b, true)
				accepted(t, p, r.ID)
			}
		})
	}
}
