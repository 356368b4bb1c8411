package control

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// BenchmarkRouteChange is the cost of one changed VirtualService in a mesh of
// 1,000 services for 100 connected sidecars of 10 namespaces: from text to the
// sets that are published.
func BenchmarkRouteChange(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, `
apiVersion: v1
kind: Service
metadata: {name: s%d, namespace: n%d}
spec: {clusterIP: 10.0.%d.%d, selector: {app: s%d}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: s%d, namespace: n%d, labels: {app: s%d}}
spec: {serviceAccountName: s%d, containers: [{name: app}, {name: istio-proxy}]}
status: {podIP: 10.1.%d.%d, phase: Running, conditions: [{type: Ready, status: "True"}]}
---`, i, i%10, i/250, i%250, i, i, i%10, i, i, i/250, i%250)
	}
	route := func(n int) string {
		return fmt.Sprintf("\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: n1}\nspec: {hosts: [s1], http: [{timeout: %ds, route: [{destination: {host: s1}}]}]}\n", n%100+1)
	}
	p, err := New(Options{Dir: b.TempDir(), Source: &file.Watcher{}, Socket: fmt.Sprintf("%s/x", shortDir(b))})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Close)
	snap := func(n int) source.Snapshot {
		objects, notices := file.Parse("mesh.yaml", []byte(text.String()))
		more, _ := file.Parse("route.yaml", []byte(route(n)))
		return source.Snapshot{Objects: append(objects, more...), Notices: notices}
	}
	base := snap(0)
	f, notices := Read(base)
	p.settings = link.Defaults()
	p.compile(0, f, notices)
	for i := range 100 {
		reg, err := p.Register(WorkloadSpec{Namespace: fmt.Sprint("n", i%10), Name: fmt.Sprint("w", i), Redirected: true}, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.open(p.registry.find(reg.ID).seat(), &xds.Node{UserAgent: proxyAgent}); err != nil {
			b.Fatal(err)
		}
	}
	static, _ := file.Parse("mesh.yaml", []byte(text.String()))
	b.ReportAllocs()
	for n := 1; b.Loop(); n++ {
		more, _ := file.Parse("route.yaml", []byte(route(n)))
		f, notices := Read(source.Snapshot{Objects: append(static[:len(static):len(static)], more...)})
		p.compile(n, f, notices)
	}
}
