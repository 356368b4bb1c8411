package istio

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/model"
)

// localityLB reads a localityLbSetting, of a destination or of the mesh.
func (r *reading) localityLB(path string, in *networking.LocalityLoadBalancerSetting) *model.LocalityLB {
	if in == nil {
		return nil
	}
	out := &model.LocalityLB{Disabled: in.Enabled != nil && !in.Enabled.Value}
	if len(in.Distribute) > 0 && (len(in.Failover) > 0 || len(in.FailoverPriority) > 0) {
		r.Invalid(path, "distribute excludes failover and failoverPriority: distribute alone acts")
	}
	from := map[string]bool{}
	for i, d := range in.Distribute {
		at := index(path+".distribute", i)
		r.place(at+".from", d.From)
		if from[d.From] {
			r.Invalid(at+".from", "%q stands here twice", d.From)
		}
		from[d.From] = true
		share, sum := model.LocalityShare{From: d.From, To: map[string]uint32{}}, uint64(0)
		for to, weight := range d.To {
			r.place(at+".to", to)
			if weight == 0 || weight > 100 {
				r.Invalid(at+".to", "the weight of %s is %d, not within 1 and 100", clip(to), weight)
				continue
			}
			share.To[to] = weight
			sum += uint64(weight)
		}
		if sum != 100 {
			r.Invalid(at+".to", "the weights add up to %d, not to 100", sum)
		}
		out.Distribute = append(out.Distribute, share)
	}
	for i, f := range in.Failover {
		at := index(path+".failover", i)
		if f.From == f.To {
			r.Invalid(at, "from and to are both %q", clip(f.From))
		}
		for _, region := range []string{f.From, f.To} {
			if region == "" || strings.ContainsAny(region, "/*") {
				r.Invalid(at, "%q is not a region: zones and subzones fail over by themselves", clip(region))
			}
		}
		out.Failover = append(out.Failover, model.LocalityPair{From: f.From, To: f.To})
	}
	seen := map[string]bool{}
	for i, p := range in.FailoverPriority {
		at := index(path+".failoverPriority", i)
		key, value, fixed := strings.Cut(p, "=")
		if r.labels(at, map[string]string{key: value}); fixed && seen[key] || seen[p] {
			r.Invalid(at, "the label %q stands here twice", clip(key))
		}
		seen[key] = true
		out.Priority = append(out.Priority, p)
	}
	return out
}

// place checks a "region/zone/subzone".
func (r *reading) place(path, p string) {
	part := strings.Split(p, "/")
	if len(part) > 3 {
		r.Invalid(path, "%q has more than region/zone/subzone", clip(p))
	}
	for i, x := range part {
		switch {
		case x == "":
			r.Invalid(path, "%q has an empty part", clip(p))
		case strings.Contains(x, "*") && (x != "*" || i != len(part)-1):
			r.Invalid(path, "%q: * stands for a whole part, and only for the last", clip(p))
		}
	}
}
