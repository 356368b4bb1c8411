package demand

import (
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// plane is a control plane that follows ARCHITECTURE.md, "On demand: the
// contract", by the letter, and may be told to be slow, silent or gone.
type plane struct {
	discoverypb.UnimplementedAggregatedDiscoveryServiceServer
	t      testing.TB
	socket string

	mu      sync.Mutex
	server  *grpc.Server
	served  chan struct{}                   // closed when server has ended
	all     map[string]map[string]*resource // by type URL and name
	version int
	silent  bool // lookups are not answered
	old     bool // it knows nothing of lookups
	streams map[*session]bool
	lookups []string // names that were asked for, in order
}

type resource struct {
	body    []byte
	version string
}

// session is one stream.
type session struct {
	discoverypb.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	asked map[string]map[string]bool   // by type URL
	sent  map[string]map[string]string // version and names, by type URL and name; "-": told that there is none
	mu    sync.Mutex                   // of Send
}

const (
	clusters  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpoints = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	listeners = "type.googleapis.com/envoy.config.listener.v3.Listener"
	routes    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

var order = []string{ext.IndexType, clusters, endpoints, listeners, routes, ext.HostType}

func newPlane(t testing.TB) *plane {
	dir, err := os.MkdirTemp("", "tulle") // short: the path of a unix socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{t: t, socket: filepath.Join(dir, "xds"), all: map[string]map[string]*resource{}, streams: map[*session]bool{}}
	for _, u := range order {
		p.all[u] = map[string]*resource{}
	}
	t.Cleanup(func() {
		p.stop()
		_ = os.RemoveAll(dir)
	})
	return p
}

// start serves; stop ends every stream.
func (p *plane) start() {
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		p.t.Fatal(err)
	}
	s := grpc.NewServer()
	discoverypb.RegisterAggregatedDiscoveryServiceServer(s, p)
	p.mu.Lock()
	p.server, p.served = s, make(chan struct{})
	p.mu.Unlock()
	go func() { defer close(p.served); _ = s.Serve(l) }() // ends with Stop
}

func (p *plane) stop() {
	p.mu.Lock()
	s := p.server
	p.server = nil
	p.mu.Unlock()
	if s != nil {
		s.Stop()
		<-p.served // then the socket's path is free
	}
}

// set changes resources; nil: there is none. Everybody who holds or asked for
// them is told.
func (p *plane) set(url string, bodies map[string]proto.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version++
	for name, m := range bodies {
		if m == nil {
			delete(p.all[url], name)
			continue
		}
		b, err := proto.Marshal(m)
		if err != nil {
			p.t.Fatal(err)
		}
		p.all[url][name] = &resource{b, fmt.Sprint(p.version)}
	}
	p.tell()
}

// raw is set for one resource that is no message.
func (p *plane) raw(url, name string, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version++
	p.all[url][name] = &resource{body, fmt.Sprint(p.version)}
	p.tell()
}

// hush makes lookups unanswered, or has all of them answered.
func (p *plane) hush(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = on
	p.tell()
}

// say sends a message to every stream as it is, whatever was asked for.
func (p *plane) say(r *discoverypb.DeltaDiscoveryResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.streams {
		s.mu.Lock()
		_ = s.Send(r) // a broken stream ends in Recv
		s.mu.Unlock()
	}
}

// asked are the names that were looked up so far, sorted.
func (p *plane) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(slices.Values(p.lookups))
}

// tell brings every stream up to date. p.mu is held.
func (p *plane) tell() {
	for s := range p.streams {
		p.update(s)
	}
}

// DeltaAggregatedResources serves one stream.
func (p *plane) DeltaAggregatedResources(x discoverypb.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	s := &session{AggregatedDiscoveryService_DeltaAggregatedResourcesServer: x, asked: map[string]map[string]bool{}, sent: map[string]map[string]string{}}
	for _, u := range order {
		s.asked[u], s.sent[u] = map[string]bool{}, map[string]string{}
	}
	defer func() {
		p.mu.Lock()
		delete(p.streams, s)
		p.mu.Unlock()
	}()
	for {
		r, err := x.Recv()
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		p.mu.Lock()
		if asked := s.asked[r.TypeUrl]; asked != nil && !(p.old && (r.TypeUrl == ext.IndexType || r.TypeUrl == ext.HostType)) {
			if len(r.ResourceNamesSubscribe)+len(r.ResourceNamesUnsubscribe) == 0 && r.ResponseNonce == "" {
				r.ResourceNamesSubscribe = []string{"*"}
			}
			for _, n := range r.ResourceNamesSubscribe {
				if asked[n] = true; n != "*" && n != ext.IndexName {
					p.lookups = append(p.lookups, n)
				}
			}
			for _, n := range r.ResourceNamesUnsubscribe {
				delete(asked, n)
				delete(s.sent[r.TypeUrl], n)
			}
			if len(r.ResourceNamesSubscribe)+len(r.ResourceNamesUnsubscribe) > 0 {
				p.streams[s] = true
				p.update(s)
			}
		}
		p.mu.Unlock()
	}
}

// lookup is what a name leads to: itself, or the wildcard above it.
func (p *plane) lookup(url, name string) string {
	if p.all[url][name] != nil {
		return name
	}
	at, host, ok := strings.Cut(name, "/")
	for ok {
		_, host, ok = strings.Cut(host, ".")
		if w := at + "/*." + host; ok && p.all[url][w] != nil {
			return w
		}
	}
	return ""
}

// update sends what a stream does not have yet. p.mu is held.
func (p *plane) update(s *session) {
	for _, url := range order {
		r := &discoverypb.DeltaDiscoveryResponse{TypeUrl: url, Nonce: fmt.Sprint(p.version)}
		names := map[string][]string{} // asked for, by resource
		for n := range s.asked[url] {
			if n == "*" {
				for own := range p.all[url] {
					if _, ok := ext.ParseLookup(own); !ok || p.old || url == clusters || url == endpoints {
						names[own] = names[own][:len(names[own]):len(names[own])]
					}
				}
				continue
			}
			to := p.lookup(url, n)
			switch {
			case p.silent && n != ext.IndexName:
			case to != "":
				names[to] = append(names[to], n)
			case s.sent[url][n] != "-":
				s.sent[url][n] = "-"
				r.RemovedResources = append(r.RemovedResources, n)
			}
		}
		for to, aliases := range names {
			x := p.all[url][to]
			slices.Sort(aliases)
			if key := x.version + fmt.Sprint(aliases); s.sent[url][to] != key {
				s.sent[url][to] = key
				for _, n := range aliases {
					if n != to {
						delete(s.sent[url], n)
					}
				}
				r.Resources = append(r.Resources, &discoverypb.Resource{Name: to, Version: x.version,
					Aliases:  slices.DeleteFunc(aliases, func(n string) bool { return n == to }),
					Resource: &anypb.Any{TypeUrl: url, Value: x.body}})
			}
		}
		for n, v := range maps.Clone(s.sent[url]) {
			if v != "-" && p.all[url][n] == nil {
				delete(s.sent[url], n)
				r.RemovedResources = append(r.RemovedResources, n)
			}
		}
		if len(r.Resources)+len(r.RemovedResources) > 0 {
			s.mu.Lock()
			_ = s.Send(r) // a broken stream ends in Recv
			s.mu.Unlock()
		}
	}
}
