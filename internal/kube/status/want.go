package status

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

const (
	gatewayGroup = "gateway.networking.k8s.io"
	nameLabel    = "gateway.networking.k8s.io/gateway-name"
)

// longest is how many bytes a condition's message may have: the API server takes
// 32768.
const longest = 8192

// want is the status that an object should have, without the times of its
// conditions. A list (parents, ancestors) is shared with other controllers.
type want struct {
	object *source.Object
	status map[string]any
	list   string
}

func group(apiVersion string) string {
	g, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return ""
	}
	return g
}

// shared are the lists in which every controller has its own entries, by kind.
var shared = map[string]string{
	"HTTPRoute": "parents", "GRPCRoute": "parents", "TLSRoute": "parents", "TCPRoute": "parents", "BackendTLSPolicy": "ancestors",
}

type named struct{ kind, namespace, name string }

// wanted lists the status of the Gateway API's objects and of Ingresses.
func wanted(r *control.Reading, controller string) []want {
	of := map[named]*model.Status{}
	for _, s := range r.Statuses {
		if g := group(s.APIVersion); g == gatewayGroup || g == "networking.k8s.io" {
			of[named{s.Origin.Kind, s.Origin.Namespace, s.Origin.Name}] = s
		}
	}
	places := placesOf(r.Objects)
	for _, o := range r.Objects {
		if s := of[named{o.Kind, o.Namespace, o.Name}]; o.Kind == "ListenerSet" && s != nil && holds(s, "Accepted") {
			places.sets[parent(o)]++
		}
	}
	var out []want
	for _, o := range r.Objects {
		g := group(o.APIVersion)
		if g != gatewayGroup && g != "networking.k8s.io" {
			continue
		}
		s, list := of[named{o.Kind, o.Namespace, o.Name}], shared[o.Kind]
		if s == nil && list == "" { // without a list there is nothing of ours to take back
			continue
		}
		if s == nil {
			s = &model.Status{}
		}
		w := want{object: o, list: list, status: map[string]any{}}
		switch o.Kind {
		case "Gateway":
			w.gateway(s, places)
		case "Ingress":
			balancer := map[string]any{}
			if len(places.ingress) > 0 {
				balancer["ingress"] = places.ingress
			}
			w.status["loadBalancer"] = balancer
		case "GatewayClass":
			w.status["conditions"] = w.conditions(s.Conditions)
			w.status["supportedFeatures"] = supported()
		case "ListenerSet":
			w.status["conditions"], w.status["listeners"] = w.conditions(s.Conditions), w.listeners(s.Parts)
		default:
			w.parents(s.Parts, controller)
		}
		out = append(out, w)
	}
	return out
}

func holds(s *model.Status, kind string) bool {
	return slices.ContainsFunc(s.Conditions, func(c model.Condition) bool { return c.Type == kind && c.Holds })
}

// parent Gateway of a ListenerSet.
func parent(o *source.Object) named {
	var set struct {
		Spec struct {
			ParentRef struct{ Namespace, Name string }
		}
	}
	_ = json.Unmarshal(o.JSON, &set) // its reader has read it
	return named{"Gateway", cmp.Or(set.Spec.ParentRef.Namespace, o.Namespace), set.Spec.ParentRef.Name}
}

// gateway's status. A Gateway is programmed once somebody serves it and it can
// be reached.
func (w *want) gateway(s *model.Status, p *places) {
	at := named{"Gateway", w.object.Namespace, w.object.Name}
	list := append([]model.Condition(nil), s.Conditions...)
	for i := range list {
		c := &list[i]
		if c.Type != "Programmed" || !c.Holds {
			continue
		}
		switch {
		case len(p.address[at]) == 0:
			*c = model.Condition{Type: c.Type, Reason: "AddressNotAssigned", Text: cmp.Or(p.waiting[at], "no Service with the label "+nameLabel+"="+at.name+" is there")}
		case !p.ready[at]:
			*c = model.Condition{Type: c.Type, Reason: "Pending", Text: "no pod with the label " + nameLabel + "=" + at.name + " is ready"}
		}
	}
	w.status["conditions"], w.status["listeners"] = w.conditions(list), w.listeners(s.Parts)
	w.status["addresses"] = append([]any{}, p.address[at]...)
	w.status["attachedListenerSets"] = p.sets[at]
}

func (w *want) conditions(list []model.Condition) []any {
	out := []any{}
	for _, c := range list {
		status := "False"
		if c.Holds {
			status = "True"
		}
		out = append(out, map[string]any{
			"type": c.Type, "status": status, "reason": cmp.Or(c.Reason, c.Type), "message": shortened(c.Text), "observedGeneration": w.object.Generation,
		})
	}
	return out
}

func shortened(s string) string {
	if len(s) > longest {
		return strings.ToValidUTF8(s[:longest], "") + " …"
	}
	return s
}

func (w *want) listeners(parts []model.StatusPart) []any {
	out := []any{}
	for _, p := range parts {
		kinds := []any{}
		for _, k := range p.Kinds {
			g, kind, _ := strings.Cut(k, "/")
			kinds = append(kinds, map[string]any{"group": g, "kind": kind})
		}
		out = append(out, map[string]any{
			"name": p.Listener, "attachedRoutes": int64(p.Attached), "supportedKinds": kinds, "conditions": w.conditions(p.Conditions),
		})
	}
	return out
}

// parents of a route, or ancestors of a policy, that are ours.
func (w *want) parents(parts []model.StatusPart, controller string) {
	field := strings.TrimSuffix(w.list, "s") + "Ref"
	out := []any{}
	for _, p := range parts {
		ref := map[string]any{"name": p.Name}
		for k, v := range map[string]string{"namespace": p.Namespace, "sectionName": p.Section} {
			if v != "" {
				ref[k] = v
			}
		}
		if p.Kind != "" { // the core group's name is empty
			ref["group"], ref["kind"] = p.Group, p.Kind
		}
		if p.Port != 0 {
			ref["port"] = int64(p.Port)
		}
		out = append(out, map[string]any{field: ref, "controllerName": controller, "conditions": w.conditions(p.Conditions)})
	}
	w.status[w.list] = out
}

// istio lists the status of Istio's objects: whether they are in effect, and
// what is to be said of them.
func istio(r *control.Reading) []want {
	of := map[named][]model.Notice{}
	for _, n := range r.Notices() {
		k := named{n.Origin.Kind, n.Origin.Namespace, n.Origin.Name}
		if n.Origin.Group == "" { // not of the Gateway API's Gateway of the name
			of[k] = append(of[k], n)
		}
	}
	var out []want
	for _, o := range r.Objects {
		if !strings.HasSuffix(group(o.APIVersion), ".istio.io") {
			continue
		}
		c := model.Condition{Type: "Accepted", Holds: true, Reason: "Accepted"}
		var text []string
		for _, n := range of[named{o.Kind, o.Namespace, o.Name}] {
			if n.Severity == model.Error && c.Holds {
				c.Holds, c.Reason = false, string(n.Reason)
			}
			line := n.Text
			if n.Origin.Field != "" {
				line = n.Origin.Field + ": " + line
			}
			text = append(text, fmt.Sprintf("%s: %s", n.Severity, line))
		}
		c.Text = strings.Join(text, "\n")
		w := want{object: o, status: map[string]any{}}
		w.status["conditions"] = w.conditions([]model.Condition{c})
		out = append(out, w)
	}
	return out
}

// places are where Gateways and Ingresses can be reached.
type places struct {
	address map[named][]any
	waiting map[named]string
	ready   map[named]bool
	sets    map[named]int64 // ListenerSets that are accepted
	ingress []any
}

func placesOf(objects []*source.Object) *places {
	p := &places{address: map[named][]any{}, waiting: map[named]string{}, ready: map[named]bool{}, sets: map[named]int64{}, ingress: []any{}}
	for _, o := range objects {
		gw := named{"Gateway", o.Namespace, o.Labels[nameLabel]}
		switch {
		case o.APIVersion != "v1":
		case o.Kind == "Service" && (gw.name != "" || o.Labels["istio"] == "ingressgateway"):
			s := new(corev1.Service)
			if json.Unmarshal(o.JSON, s) != nil {
				continue
			}
			if gw.name != "" {
				p.service(gw, s)
				continue
			}
			for _, i := range s.Status.LoadBalancer.Ingress {
				x := map[string]any{}
				if i.IP != "" {
					x["ip"] = i.IP
				}
				if i.Hostname != "" {
					x["hostname"] = i.Hostname
				}
				p.ingress = append(p.ingress, x)
			}
		case o.Kind == "Pod" && gw.name != "" && !p.ready[gw]:
			pod := new(corev1.Pod)
			if json.Unmarshal(o.JSON, pod) != nil {
				continue
			}
			for _, c := range pod.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					p.ready[gw] = true
				}
			}
		}
	}
	return p
}

// service adds the addresses that one gives its Gateway.
func (p *places) service(gw named, s *corev1.Service) {
	add := func(kind, value string) {
		p.address[gw] = append(p.address[gw], map[string]any{"type": kind, "value": value})
	}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		add("Hostname", s.Name+"."+s.Namespace+".svc.cluster.local")
		return
	}
	for _, i := range s.Status.LoadBalancer.Ingress {
		if i.IP != "" {
			add("IPAddress", i.IP)
		}
		if i.Hostname != "" {
			add("Hostname", i.Hostname)
		}
	}
	for _, ip := range s.Spec.ExternalIPs {
		add("IPAddress", ip)
	}
	p.waiting[gw] = fmt.Sprintf("the load balancer has given Service %s no address yet", s.Name)
}
