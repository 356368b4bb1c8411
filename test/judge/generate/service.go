package generate

import (
	"fmt"
	"strconv"
)

// service is something that routes can lead to.
type service struct {
	host    string // in full
	short   string // from its own namespace; empty: none
	subsets []string
	port    int
	ports   []int
	empty   bool // without endpoints
}

// services makes one to three of them, with their DestinationRules.
func (g *gen) services() {
	for i := range 1 + g.IntN(3) {
		s := &service{port: one(g, 80, 80, 8080), subsets: []string{"v1", "v2"}[:g.IntN(3)]}
		s.ports = []int{s.port}
		name := string(rune('a' + i))
		dead := g.percent(10)
		s.empty = !dead && g.percent(5)
		if g.percent(50) {
			g.kubernetes(s, name, dead)
		} else {
			g.entry(s, name, dead)
		}
		g.svcs = append(g.svcs, s)
		if len(s.subsets) > 0 || g.percent(30) {
			g.destinationRule(s, name)
		}
	}
}

// at is the i-th backend of a service.
func (g *gen) at(i int, dead bool) int {
	if dead {
		return int(g.w.Dead)
	}
	return int(g.w.Backends[i%len(g.w.Backends)])
}

// kubernetes makes a Service that selects WorkloadEntries.
func (g *gen) kubernetes(s *service, name string, dead bool) {
	s.short, s.host = name, name+"."+placeholder+".svc.cluster.local"
	g.add("v1", "Service", name, Obj{
		"selector": Obj{"app": name},
		"ports":    List{Obj{"name": one(g, "http", "http-main"), "port": s.port, "targetPort": 7000}},
	})
	if s.empty {
		return
	}
	for i := range 2 {
		// One endpoint per version: where a request lands is not left to chance
		// but by subsets.
		if i >= max(1, len(s.subsets)) {
			break
		}
		g.add("networking.istio.io/v1", "WorkloadEntry", fmt.Sprintf("%s-%d", name, i+1), Obj{
			"address": "127.0.0.1", "ports": Obj{"http": g.at(i, dead), "http-main": g.at(i, dead)},
			"labels": Obj{"app": name, "version": "v" + strconv.Itoa(i+1)},
		})
	}
}

// entry makes a ServiceEntry.
func (g *gen) entry(s *service, name string, dead bool) {
	s.host = name + "." + placeholder + ".example"
	spec := Obj{
		"hosts": List{s.host}, "location": one(g, "MESH_EXTERNAL", "MESH_INTERNAL"),
		"resolution": one(g, "STATIC", "STATIC", "DNS"),
		"ports":      List{Obj{"name": "http", "number": s.port, "protocol": one(g, "HTTP", "HTTP", "HTTP2", "GRPC")}},
	}
	var ends List
	for i := range max(1, len(s.subsets)) {
		ends = append(ends, Obj{
			"address": "127.0.0.1", "ports": Obj{"http": g.at(i, dead)}, "labels": Obj{"version": "v" + strconv.Itoa(i+1)},
		})
	}
	spec["endpoints"] = ends
	if s.empty {
		delete(spec, "endpoints")
		spec["resolution"], spec["workloadSelector"] = "STATIC", Obj{"labels": Obj{"app": "nobody"}}
	}
	g.add("networking.istio.io/v1", "ServiceEntry", name, spec)
}

// destinationRule names the subsets, and says what does not change where a
// request lands.
func (g *gen) destinationRule(s *service, name string) {
	spec := Obj{"host": one(g, s.called()...)}
	var subsets List
	for _, v := range s.subsets {
		sub := Obj{"name": v, "labels": Obj{"version": v}}
		if g.percent(20) {
			sub["trafficPolicy"] = g.trafficPolicy()
		}
		subsets = append(subsets, sub)
	}
	if subsets != nil {
		spec["subsets"] = subsets
	}
	if g.percent(40) {
		p := g.trafficPolicy()
		if g.percent(30) {
			own := g.trafficPolicy()
			own["port"] = Obj{"number": s.port}
			p["portLevelSettings"] = List{own}
		}
		spec["trafficPolicy"] = p
	}
	g.add("networking.istio.io/v1", "DestinationRule", name, spec)
}

// called is how objects may name it.
func (s *service) called() []string {
	if s.short == "" {
		return []string{s.host}
	}
	return []string{s.host, s.short}
}

// dialled is how requests may name it.
func (s *service) dialled() []string {
	if s.short == "" {
		return []string{s.host}
	}
	return []string{s.host, s.short + "." + placeholder, s.short + "." + placeholder + ".svc"}
}

func (g *gen) trafficPolicy() Obj {
	p := Obj{"outlierDetection": Obj{"consecutive5xxErrors": 0}} // never empty
	if g.percent(50) {
		p["loadBalancer"] = one(g, Obj{"simple": "ROUND_ROBIN"}, Obj{"simple": "RANDOM"}, Obj{"simple": "LEAST_REQUEST"},
			Obj{"consistentHash": Obj{"httpHeaderName": "x-a"}},
			Obj{"consistentHash": Obj{"useSourceIp": true}},
			Obj{"consistentHash": Obj{"httpQueryParameterName": "q", "maglev": Obj{"tableSize": 5003}}},
			Obj{"consistentHash": Obj{"httpCookie": Obj{"name": "sticky"}, "ringHash": Obj{"minimumRingSize": 64}}},
		)
	}
	if g.percent(40) {
		p["connectionPool"] = Obj{
			"tcp":  Obj{"connectTimeout": "5s", "maxConnections": 100},
			"http": Obj{"http1MaxPendingRequests": 100, "http2MaxRequests": 100, "maxRequestsPerConnection": one(g, 0, 1, 2), "maxRetries": 100, "h2UpgradePolicy": one(g, "DEFAULT", "UPGRADE", "DO_NOT_UPGRADE")},
		}
	}
	if g.percent(10) {
		p["tls"] = Obj{"mode": "DISABLE"}
	}
	return p
}
