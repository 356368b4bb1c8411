package control

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// Snapshots that are read one after the other mean what each means by itself, and
// what no change touches stays the same by pointer.
func TestReadingAgainIsLikeReading(t *testing.T) {
	texts := func(i, v int) []string {
		return []string{
			fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: s%d, namespace: a}, spec: {clusterIP: 10.0.0.%d, ports: [{name: http, port: %d}]}}`, i, i+1, 80+v),
			fmt.Sprintf(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e%d, namespace: a, labels: {kubernetes.io/service-name: s%d}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.1.0.%d]}]}`, i, i/2*2, v),
			fmt.Sprintf(`{apiVersion: v1, kind: Endpoints, metadata: {name: s%d, namespace: a}, subsets: [{addresses: [{ip: 10.2.0.%d}], ports: [{port: 80}]}]}`, i, v),
			fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: p%d, namespace: a, labels: {v: "%d"}}, spec: {containers: [{name: c}]}, status: {podIP: 10.3.0.%d}}`, i, v, i),
			fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v%d, namespace: a}, spec: {hosts: [s%d], http: [{timeout: %ds, route: [{destination: {host: s%d}}]}]}}`, i, i, v+1, i),
			fmt.Sprintf(`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i%d, namespace: a}, spec: {rules: [{host: h%d.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s%d, port: {number: 80}}}}]}}]}}`, i, v, i),
			fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d%d, namespace: a}, spec: {host: s%d, nonsense: %d}}`, i, i, v),
		}
	}
	kinds := len(texts(0, 0))
	r := rand.New(rand.NewPCG(3, 4))
	const each = 4
	objects := make([]*source.Object, kinds*each)
	memory := dialect.NewMemory(Dialects)
	var last model.Fragment
	for step := range 400 {
		k := r.IntN(len(objects))
		if objects[k] = nil; r.IntN(4) > 0 {
			list, _ := file.Parse("f.yaml", []byte(texts(k%each, r.IntN(9))[k/each]))
			objects[k] = list[0]
		}
		snap := source.Snapshot{Objects: slices.DeleteFunc(slices.Clone(objects), func(o *source.Object) bool { return o == nil })}
		got, gotNotices := memory.Read(snap)
		want, wantNotices := Read(snap)
		if !reflect.DeepEqual(got, want) || !sameNotices(gotNotices, wantNotices) {
			t.Fatalf("step %d:\n got %+v %v\nwant %+v %v", step, got, gotNotices, want, wantNotices)
		}
		fresh := 0
		for _, s := range got.Services {
			if !slices.Contains(last.Services, s) {
				fresh++
			}
		}
		if fresh > 2 { // a slice that moved from one to another
			t.Fatalf("step %d: %d Services were read again", step, fresh)
		}
		last = got
	}
}

func sameNotices(a, b []model.Notice) bool {
	text := func(l []model.Notice) (out []string) {
		for _, n := range l {
			out = append(out, n.String())
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(text(a), text(b))
}
