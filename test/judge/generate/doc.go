// Package generate makes random configurations of Istio's kinds, and requests
// that hit and narrowly miss what they say.
//
// In: a seed, a number, and where the backends of the run listen. Out: a
// Config: objects as trees, so that any part can be taken away again (Smaller),
// and Requests. The same numbers give the same configuration. A configuration
// has a name, its namespace and a part of every host, so that many of them
// live in one mesh without touching each other.
//
// What does not belong here: proxies, sockets, and what must come out.
package generate

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"sigs.k8s.io/yaml"
)

// placeholder stands for a configuration's name in its trees.
const placeholder = "c0nf"

// Obj and List are what trees are made of.
type (
	Obj  = map[string]any
	List = []any
)

// Config is one configuration with the requests about it.
type Config struct {
	Seed, Number uint64
	Objects      List
	Requests     []Request
}

// Request is one request, or Times of them where chance decides.
type Request struct {
	Gateway bool // through the gateway, else from the sidecar
	Port    uint16
	Method  string
	Host    string // as in the Host header
	Target  string // path and query
	Headers [][2]string
	Body    string
}

// World is where configurations stand: what their objects refer to.
type World struct {
	Client    string            // namespace of the calling workload and of the gateway
	Account   string            // service account of the caller
	Labels    map[string]string // of the caller
	Edge      map[string]string // the gateway's labels
	EdgePorts []uint16          // of plain HTTP
	Backends  []uint16          // ports of 127.0.0.1
	Dead      uint16            // one that nobody serves
}

// gen is one configuration in the making.
type gen struct {
	*rand.Rand
	w    World
	c    *Config
	svcs []*service

	lastGateway string
}

// Make makes the configuration of a number.
func Make(w World, seed, number uint64) *Config {
	g := &gen{Rand: rand.New(rand.NewPCG(seed, number)), w: w, c: &Config{Seed: seed, Number: number}}
	g.services()
	g.gateways()
	g.virtualServices()
	return g.c
}

// YAML is the configuration under a name.
func (c *Config) YAML(name string) ([]byte, error) {
	var b strings.Builder
	for _, o := range c.Objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		b.WriteString("---\n" + strings.ReplaceAll(string(text), placeholder, name))
	}
	return []byte(b.String()), nil
}

// Named is a request to the configuration under a name.
func (r Request) Named(name string) Request {
	say := func(s string) string { return strings.ReplaceAll(s, placeholder, name) }
	r.Host, r.Target, r.Body = say(r.Host), say(r.Target), say(r.Body)
	hs := make([][2]string, len(r.Headers))
	for i, h := range r.Headers {
		hs[i] = [2]string{h[0], say(h[1])}
	}
	r.Headers = hs
	return r
}

func (g *gen) add(apiVersion, kind, name string, spec any) {
	g.c.Objects = append(g.c.Objects, Obj{
		"apiVersion": apiVersion, "kind": kind, "metadata": Obj{"name": name, "namespace": placeholder}, "spec": spec,
	})
}

// percent is true in p of a hundred cases.
func (g *gen) percent(p int) bool { return g.IntN(100) < p }

// one of some values.
func one[T any](g *gen, of ...T) T { return of[g.IntN(len(of))] }

// some of the values, in their order, at least min.
func some[T any](g *gen, least int, of ...T) []T {
	n := least + g.IntN(len(of)-least+1)
	keep := g.Perm(len(of))[:n]
	in := make([]bool, len(of))
	for _, i := range keep {
		in[i] = true
	}
	var out []T
	for i, v := range of {
		if in[i] {
			out = append(out, v)
		}
	}
	return out
}

func list[T any](of []T) List {
	out := make(List, len(of))
	for i, v := range of {
		out[i] = v
	}
	return out
}

// String is the request as one would type it.
func (r Request) String() string {
	var b strings.Builder
	b.WriteString("sidecar")
	if r.Gateway {
		b.Reset()
		fmt.Fprintf(&b, "gateway:%d", r.Port)
	}
	fmt.Fprintf(&b, " %s %s%s", r.Method, r.Host, r.Target)
	for _, h := range r.Headers {
		fmt.Fprintf(&b, " -H '%s: %s'", h[0], h[1])
	}
	if r.Body != "" {
		fmt.Fprintf(&b, " -d '%s'", r.Body)
	}
	return b.String()
}
