package demand

import (
	"bufio"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

// BenchmarkFirstUse is what a destination costs that was never used before, more
// than one that was, in microseconds, under our own control plane: a request's
// host on a connection that is open, and the address of a connection.
func BenchmarkFirstUse(b *testing.B) {
	const services = 2000
	var yaml strings.Builder
	for i := range services {
		fmt.Fprintf(&yaml, `---
apiVersion: v1
kind: Service
metadata: {name: s%[1]d, namespace: shop}
spec: {clusterIP: 10.0.%[2]d.%[3]d, ports: [{name: http, port: 80}, {name: tcp, port: 3306}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s%[1]d, namespace: shop, labels: {kubernetes.io/service-name: s%[1]d}}
addressType: IPv4
endpoints: [{addresses: [10.1.%[2]d.%[3]d], conditions: {ready: true}}]
ports: [{name: http, port: 80}, {name: tcp, port: 3306}]
`, i, i/250, 1+i%250)
	}
	p := real(b, mesh(b, yaml.String()))
	one := newBackend(b, "one")
	e := &ends{t: b, one: one}
	s := e.sidecar(p, "look", proxy.Bootstrap{OnDemand: true})
	s.wait("the port's own listener", func() bool { return s.Learnt().OfPort(80) != nil })
	c, err := s.connect("192.0.2.1:80")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for name, use := range map[string]func(i int){
		"host": func(i int) {
			if got := exchange(b, c, in, fmt.Sprintf("s%d", i)); got != "200" {
				b.Fatal(got)
			}
		},
		"address": func(i int) {
			if got := s.tcp(fmt.Sprintf("10.0.%d.%d:3306", i/250, 1+i%250)); got != "one" {
				b.Fatal(got)
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			var first, again []time.Duration
			took := func(i int) time.Duration {
				begin := time.Now()
				use(i)
				return time.Since(begin)
			}
			b.ResetTimer()
			for i := range min(b.N, services) {
				first = append(first, took(i))
				again = append(again, took(i))
				time.Sleep(6 * time.Millisecond) // so that the bound of 200 a second is not what is measured
			}
			slices.Sort(first)
			slices.Sort(again)
			for _, q := range []int{50, 99} {
				n := min(len(first)-1, len(first)*q/100)
				b.ReportMetric(float64((first[n] - again[n]).Microseconds()), fmt.Sprintf("µs-more-p%d", q))
				b.ReportMetric(float64(again[n].Microseconds()), fmt.Sprintf("µs-known-p%d", q))
			}
		})
	}
}
