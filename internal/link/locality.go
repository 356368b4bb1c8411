package link

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Labels that stand for where a workload is.
const (
	networkLabel = "topology.istio.io/network"
	regionLabel  = "topology.kubernetes.io/region"
	zoneLabel    = "topology.kubernetes.io/zone"
	subzoneLabel = "topology.istio.io/subzone"
	hostLabel    = "kubernetes.io/hostname"
)

// place is where a client is, as far as its choice of endpoints depends on it.
type place struct {
	locality model.Locality
	labels   string // "key=value" that failoverPriority compares, a newline after each
}

func (p place) label(key string) string {
	for l := range strings.Lines(p.labels) {
		if k, v, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "="); k == key {
			return v
		}
	}
	return ""
}

// placing says which parts of a client's place matter.
type placing struct {
	locality bool
	keys     []string // labels
}

func (p *placing) add(lb *model.LocalityLB) {
	if lb == nil {
		return
	}
	p.locality = p.locality || len(lb.Distribute) > 0
	for _, k := range lb.Priority {
		if !strings.Contains(k, "=") && !slices.Contains(p.keys, k) {
			p.keys = append(p.keys, k)
		}
	}
}

func (p *placing) policy(t *model.TrafficPolicy) {
	p.locality = p.locality || t.Outlier != nil
	if t.LoadBalancer != nil {
		p.add(t.LoadBalancer.Locality)
	}
	for i := range t.Ports {
		p.policy(&t.Ports[i].TrafficPolicy)
	}
}

// placingOf is what matters for a rule's clusters, or for one of its objects.
func placingOf(t *model.TrafficPolicy, subsets ...*model.Subset) placing {
	var p placing
	p.policy(t)
	for _, s := range subsets {
		p.policy(&s.Policy)
	}
	return p
}

// placeFor is the part of a client's place that the clusters of a service
// depend on.
func (s *Scope) placeFor(svc *service, d *destination) place {
	if svc.Resolution == model.Passthrough && s.client.Role == model.Sidecar {
		return place{}
	}
	p := s.m.placing()
	if d != nil {
		p.policy(&d.policy)
		for _, sub := range d.subsets {
			p.policy(&sub.Policy)
		}
	}
	var out place
	if p.locality {
		out.locality = s.client.Locality
	}
	slices.Sort(p.keys)
	for _, k := range p.keys {
		if v := labelOf(k, s.client.Labels, s.client.Locality, s.client.Network, s.client.Host); v != "" {
			out.labels += k + "=" + v + "\n"
		}
	}
	return out
}

// placing that the mesh's settings ask for, of every cluster.
func (m *Mesh) placing() placing {
	p := placing{locality: m.Settings.Outlier != nil}
	p.add(m.Settings.Locality)
	return p
}

// labelOf a workload, or what stands for it.
func labelOf(key string, labels map[string]string, at model.Locality, network, host string) string {
	var v string
	switch key {
	case networkLabel:
		v = network
	case regionLabel:
		v = at.Region
	case zoneLabel:
		v = at.Zone
	case subzoneLabel:
		v = at.Subzone
	case hostLabel:
		v = host
	}
	return cmp.Or(v, labels[key])
}

// locate settles which endpoints of a cluster come first for a client, as Istio
// does: shares by locality, else, with outlier detection, priorities.
func (m *Mesh) locate(c *model.Cluster, at place) {
	l := cmp.Or(c.Balance.Locality, m.Settings.Locality, &model.LocalityLB{})
	if l.Disabled || c.Resolution == model.Passthrough {
		return
	}
	if len(l.Distribute) > 0 {
		distribute(c, l.Distribute, at.locality)
	} else if c.Outlier != nil {
		failover(c, l, at)
	}
}

// distribute weighs the localities that the first rule for the client's own
// names. No other has endpoints then.
func distribute(c *model.Cluster, list []model.LocalityShare, at model.Locality) {
	i := slices.IndexFunc(list, func(s model.LocalityShare) bool { return inPlace(at, s.From) })
	if i < 0 {
		return
	}
	weights := map[model.Locality]float64{}
	for _, e := range c.Endpoints {
		if e.Ready {
			weights[e.Locality] += float64(max(e.Weight, 1))
		}
	}
	places := slices.Collect(maps.Keys(list[i].To))
	slices.SortFunc(places, func(a, b string) int { // what says more comes first
		return cmp.Or(strings.Count(b, "/")-strings.Count(a, "/"), strings.Count(a, "*")-strings.Count(b, "*"), strings.Compare(a, b))
	})
	c.Shares, c.Weighted = map[model.Locality]uint32{}, true
	for _, p := range places {
		sum := 0.0
		for l, w := range weights {
			if inPlace(l, p) {
				sum += w
			}
		}
		for l, w := range weights {
			if inPlace(l, p) {
				c.Shares[l] = uint32(math.Ceil(w * float64(list[i].To[p]) / sum))
				delete(weights, l)
			}
		}
	}
	c.Endpoints = slices.DeleteFunc(c.Endpoints, func(e model.ClusterEndpoint) bool {
		_, ok := c.Shares[e.Locality]
		return !ok
	})
}

// inPlace reports whether a locality is in a "region/zone/subzone" whose later
// parts may be missing, and "*" any.
func inPlace(l model.Locality, place string) bool {
	part := strings.SplitN(place, "/", 3)
	for i, have := range []string{l.Region, l.Zone, l.Subzone} {
		if i < len(part) && part[i] != "*" && (part[i] != "" || i == 0) && part[i] != have {
			return false
		}
	}
	return true
}

// failover gives endpoints priorities: by labels in their order, then by region,
// zone and subzone. Priorities have no gaps.
func failover(c *model.Cluster, l *model.LocalityLB, at place) {
	c.Weighted = len(l.Priority) > 0 || len(l.Failover) > 0
	byPlace := at.locality != (model.Locality{}) && (len(l.Priority) == 0 || len(l.Failover) > 0)
	used := map[uint32]bool{}
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		e.Priority = byLabels(e, l.Priority, at)
		if byPlace {
			e.Priority = 5*e.Priority + distance(at.locality, e.Locality, l.Failover)
		}
		if e.Ready {
			used[e.Priority] = true
		}
	}
	ranks := slices.Sorted(maps.Keys(used))
	for i := range c.Endpoints {
		n, _ := slices.BinarySearch(ranks, c.Endpoints[i].Priority)
		c.Endpoints[i].Priority = uint32(n)
	}
}

// byLabels is 0 for an endpoint that has all labels, and one more for each that
// is missing or comes after one that is.
func byLabels(e *model.ClusterEndpoint, keys []string, at place) uint32 {
	for i, k := range keys {
		want := ""
		key, value, fixed := strings.Cut(k, "=")
		if want = value; !fixed {
			want = at.label(key)
		}
		if labelOf(key, e.Labels, e.Locality, e.Network, e.Host) != want {
			return uint32(len(keys) - i)
		}
	}
	return 0
}

// distance is 0 in the same subzone, 1 in the zone, 2 in the region, 3 elsewhere,
// and 4 where the user named another region to fail over to.
func distance(from, to model.Locality, named []model.LocalityPair) uint32 {
	switch {
	case from == to:
		return 0
	case from.Region == to.Region && from.Zone == to.Zone:
		return 1
	case from.Region == to.Region:
		return 2
	}
	for _, f := range named {
		if f.From == from.Region {
			if to.Region != f.To {
				return 4
			}
			break
		}
	}
	return 3
}
