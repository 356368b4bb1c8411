package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// Type URLs.
const (
	prefix       = "type.googleapis.com/envoy."
	clusterType  = prefix + "config.cluster.v3.Cluster"
	endpointType = prefix + "config.endpoint.v3.ClusterLoadAssignment"
	listenerType = prefix + "config.listener.v3.Listener"
	routeType    = prefix + "config.route.v3.RouteConfiguration"
	method       = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
)

// raw is messages as bytes.
type raw struct{}

func (raw) Name() string { return "raw" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// proxy is one client. What it was told last of a name is kept as a version.
type proxy struct {
	f      *fleet
	id     int
	uses   []int // services
	stream grpc.ClientStream
	sendMu sync.Mutex

	missing map[string]bool // asked for and not yet there; nil: ready
	bytes   atomic.Int64
	size    atomic.Int64 // of the resource that is watched, as it came last
}

// fleet is all proxies of a run.
type fleet struct {
	demand  bool
	hello   hello
	proxies []*proxy
	ready   sync.WaitGroup
	failed  atomic.Pointer[error]

	lastByte atomic.Int64 // when, in nanoseconds

	mu    sync.Mutex
	watch string // resource for which arrivals are noted
	at    []time.Time
	want  int
	done  chan struct{}
}

// text, message and so on write fields of a request.
func text(b []byte, n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

func (p *proxy) send(url, nonce string, names ...string) error {
	var b []byte
	if nonce == "" {
		ns, name, _ := strings.Cut(p.f.hello.Names[p.id], "/")
		node := text(nil, 1, "sidecar~127.0.0.1~"+name+"."+ns+"~"+ns)
		node = text(node, 6, "tulle-proxy")
		if p.f.demand {
			node = text(node, 10, ext.Demand)
		}
		b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), node)
	}
	b = text(b, 2, url)
	for _, n := range names {
		b = text(b, 3, n)
	}
	if nonce != "" {
		b = text(b, 6, nonce)
	}
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	return p.stream.SendMsg(&b)
}

// resource is one of a response.
type resource struct {
	name  string
	also  []string
	bytes int
}

// parse takes a response apart as far as the load client cares.
func parse(b []byte) (url, nonce string, list []resource, err error) {
	err = each(b, func(n protowire.Number, v []byte) {
		switch n {
		case 2:
			r := resource{bytes: len(v)}
			err = errors.Join(err, each(v, func(n protowire.Number, v []byte) {
				switch n {
				case 3:
					r.name = string(v)
				case 4:
					r.also = append(r.also, string(v))
				}
			}))
			list = append(list, r)
		case 4:
			url = string(v)
		case 5:
			nonce = string(v)
		}
	})
	return url, nonce, list, err
}

func each(b []byte, f func(n protowire.Number, v []byte)) error {
	for len(b) > 0 {
		n, t, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if t != protowire.BytesType {
			if size = protowire.ConsumeFieldValue(n, t, b); size < 0 {
				return protowire.ParseError(size)
			}
			b = b[size:]
			continue
		}
		v, size := protowire.ConsumeBytes(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		f(n, v)
		b = b[size:]
	}
	return nil
}

// begin asks for what the proxy is to have.
func (p *proxy) begin() error {
	p.missing = map[string]bool{}
	if !p.f.demand {
		p.missing["listeners"], p.missing["endpoints"], p.missing["routes"] = true, true, true
		if err := p.send(clusterType, ""); err != nil {
			return err
		}
		return p.send(listenerType, "")
	}
	listeners, routes, hosts := []string{"*", "0.0.0.0_80"}, []string{"*"}, []string{}
	for _, s := range p.uses {
		listeners = append(listeners, addrOf(s)+"_80")
		routes = append(routes, "0.0.0.0_80/"+hostOf(s))
		hosts = append(hosts, hostOf(s))
		p.missing[routeType+"0.0.0.0_80/"+hostOf(s)] = true
		p.missing[ext.HostType+hostOf(s)] = true
		p.missing[endpointType+"outbound|80||"+hostOf(s)] = true
		p.missing[clusterType+"outbound|80||"+hostOf(s)] = true
	}
	p.missing[listenerType+"0.0.0.0_80"], p.missing[ext.IndexType+ext.IndexName] = true, true
	for _, q := range []struct {
		url   string
		names []string
	}{{ext.IndexType, []string{ext.IndexName}}, {clusterType, []string{"*"}}, {endpointType, []string{"*"}}, {listenerType, listeners}, {routeType, routes}, {ext.HostType, hosts}} {
		if err := p.send(q.url, "", q.names...); err != nil {
			return err
		}
	}
	return nil
}

// run serves the stream to its end.
func (p *proxy) run() error {
	if err := p.begin(); err != nil {
		return err
	}
	for {
		var b []byte
		if err := p.stream.RecvMsg(&b); err != nil {
			return err
		}
		p.bytes.Add(int64(len(b)))
		p.f.lastByte.Store(time.Now().UnixNano())
		url, nonce, list, err := parse(b)
		if err != nil {
			return err
		}
		if err := p.take(url, list); err != nil {
			return err
		}
		if err := p.send(url, nonce); err != nil {
			return err
		}
	}
}

// take notes what came.
func (p *proxy) take(url string, list []resource) error {
	f := p.f
	for _, r := range list {
		if url+r.name == f.watching() {
			p.size.Store(int64(r.bytes))
			f.arrived()
		}
	}
	if p.missing == nil {
		return nil
	}
	for _, r := range list {
		delete(p.missing, url+r.name)
		for _, a := range r.also {
			delete(p.missing, url+a)
		}
	}
	if !f.demand && len(list) > 0 {
		if err := p.follow(url, list); err != nil {
			return err
		}
	}
	if len(p.missing) == 0 {
		p.missing = nil
		f.ready.Done()
	}
	return nil
}

// follow does as Envoy: clusters name endpoints, listeners route tables.
func (p *proxy) follow(url string, list []resource) error {
	switch url {
	case clusterType:
		var names []string
		for _, r := range list {
			if strings.HasPrefix(r.name, "outbound|") {
				names = append(names, r.name)
			}
		}
		return p.send(endpointType, "", names...)
	case listenerType:
		delete(p.missing, "listeners")
		return p.send(routeType, "", "80")
	case endpointType:
		delete(p.missing, "endpoints")
	case routeType:
		delete(p.missing, "routes")
	}
	return nil
}

func (f *fleet) watching() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.watch
}

func (f *fleet) arrived() {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.want == 0 {
		return
	}
	f.at = append(f.at, now)
	if f.want--; f.want == 0 {
		close(f.done)
	}
}

// expect notes the arrival of a resource at n proxies; the channel closes with
// the last.
func (f *fleet) expect(name string, n int) chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watch, f.at, f.want, f.done = name, nil, n, make(chan struct{})
	return f.done
}

// quiet waits until all have the same state of what is watched and nothing has
// come for a second.
func (f *fleet) quiet(ctx context.Context) error {
	for {
		same := true
		for _, p := range f.proxies {
			same = same && p.size.Load() == f.proxies[0].size.Load()
		}
		if same && time.Since(time.Unix(0, f.lastByte.Load())) > time.Second {
			return nil
		}
		if err := f.failed.Load(); err != nil {
			return *err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// start connects all proxies and waits until each has what it wants.
func (f *fleet) start(ctx context.Context) error {
	gate := make(chan struct{}, 64) // so many connect at a time
	for _, p := range f.proxies {
		f.ready.Add(1)
		go func() {
			gate <- struct{}{}
			err := p.connect(ctx)
			<-gate
			if err == nil {
				err = p.run()
			}
			if ctx.Err() == nil {
				err = fmt.Errorf("proxy %d: %w", p.id, err)
				f.failed.CompareAndSwap(nil, &err)
			}
		}()
	}
	all := make(chan struct{})
	go func() { f.ready.Wait(); close(all) }()
	return f.wait(ctx, all)
}

// wait for something, a failure or the end.
func (f *fleet) wait(ctx context.Context, ch <-chan struct{}) error {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ch:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			if err := f.failed.Load(); err != nil {
				return *err
			}
		}
	}
}

func (p *proxy) connect(ctx context.Context) error {
	c, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.f.hello.Socket)
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(256<<20)),
		grpc.WithSharedWriteBuffer(true))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = c.Close() })
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.f.hello.Tokens[p.id])
	p.stream, err = c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	return err
}
