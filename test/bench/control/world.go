package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/source"
)

// world is a mesh of user objects, and the source that hands it to the control
// plane. Only change and emit change it, from one goroutine.
type world struct {
	objects []*source.Object
	slices  []int // of objects, by service: its EndpointSlice
	routes  []int // of objects, by service: its VirtualService, or -1
	turn    int
	emit    chan source.Snapshot
}

const (
	endpointsEach = 10
	namespaces    = 20
)

func nsOf(s int) string   { return fmt.Sprint("n", s%namespaces) }
func nameOf(s int) string { return fmt.Sprint("s", s) }
func hostOf(s int) string { return nameOf(s) + "." + nsOf(s) + ".svc.cluster.local" }
func addrOf(s int) string { return fmt.Sprintf("10.%d.%d.%d", 96+s>>16, s>>8&255, s&255) }

func newWorld(services int) *world {
	w := &world{emit: make(chan source.Snapshot, 1)}
	for n := range namespaces {
		w.add("v1", "Namespace", "", fmt.Sprint("n", n), `"metadata":{"name":"n%d"}`, n)
	}
	for s := range services {
		w.add("v1", "Service", nsOf(s), nameOf(s), `"metadata":{"name":%q,"namespace":%q},"spec":{"clusterIP":%q,"ports":[{"name":"http","port":80,"targetPort":8080}]}`, nameOf(s), nsOf(s), addrOf(s))
		w.slices = append(w.slices, len(w.objects))
		w.add("discovery.k8s.io/v1", "EndpointSlice", nsOf(s), nameOf(s), "%s", w.slice(s, endpointsEach))
		w.routes = append(w.routes, -1)
		if s%10 == 0 {
			w.routes[s] = len(w.objects)
			w.add("networking.istio.io/v1", "VirtualService", nsOf(s), nameOf(s), "%s", route(s, 1))
			w.add("networking.istio.io/v1", "DestinationRule", nsOf(s), nameOf(s), `"metadata":{"name":%q,"namespace":%q},"spec":{"host":%q,"trafficPolicy":{"connectionPool":{"http":{"http2MaxRequests":100}}},"subsets":[{"name":"v1","labels":{"version":"v1"}}]}`, nameOf(s), nsOf(s), nameOf(s))
		}
	}
	return w
}

func (w *world) add(api, kind, ns, name, format string, args ...any) {
	w.objects = append(w.objects, object(api, kind, ns, name, fmt.Sprintf(format, args...)))
}

func object(api, kind, ns, name, fields string) *source.Object {
	var labels map[string]string
	if kind == "EndpointSlice" {
		labels = map[string]string{"kubernetes.io/service-name": name}
	}
	return &source.Object{
		Labels: labels, APIVersion: api, Kind: kind, Namespace: ns, Name: name, Created: time.Unix(1e9, 0),
		JSON: fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,%s}`, api, kind, fields),
	}
}

// slice is an EndpointSlice; every turn gives its first endpoint another address.
func (w *world) slice(s, n int) string {
	var list strings.Builder
	for i := range n {
		a := fmt.Sprintf("10.%d.%d.%d", 128+s&63, i>>8&255, i&255)
		if i == 0 {
			a = fmt.Sprintf("10.%d.%d.%d", 192+s&31, w.turn>>8&255, w.turn&255)
		}
		if i > 0 {
			list.WriteByte(',')
		}
		fmt.Fprintf(&list, `{"addresses":[%q],"conditions":{"ready":true}}`, a)
	}
	return fmt.Sprintf(`"metadata":{"name":%q,"namespace":%q,"labels":{"kubernetes.io/service-name":%q}},"addressType":"IPv4","ports":[{"name":"http","port":8080}],"endpoints":[%s]`, nameOf(s), nsOf(s), nameOf(s), list.String())
}

func route(s, timeout int) string {
	return fmt.Sprintf(`"metadata":{"name":%q,"namespace":%q},"spec":{"hosts":[%q],"http":[{"timeout":"%ds","route":[{"destination":{"host":%q}}]}]}`, nameOf(s), nsOf(s), nameOf(s), timeout, nameOf(s))
}

// replace puts another object in the place of one.
func (w *world) replace(at int, fields string) {
	o := w.objects[at]
	now := append([]*source.Object(nil), w.objects...)
	now[at] = object(o.APIVersion, o.Kind, o.Namespace, o.Name, fields)
	w.objects = now
	w.emit <- source.Snapshot{Objects: now}
}

// endpoint changes one endpoint of a service, which has n then.
func (w *world) endpoint(s, n int) {
	w.turn++
	w.replace(w.slices[s], w.slice(s, n))
}

// route changes a service's VirtualService.
func (w *world) route(s int) {
	w.turn++
	w.replace(w.routes[s], route(s, 2+w.turn%1000))
}

// Watch implements source.Source.
func (w *world) Watch(ctx context.Context, emit func(source.Snapshot)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-w.emit:
			emit(s)
		}
	}
}
