package proxy

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/feed"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// Features that this proxy declares to the control plane.
var Features = []string{"tulle.bridge"}

// feed receives configuration until ctx ends.
func (p *Proxy) feed(ctx context.Context) error {
	b := p.boot
	features := Features
	if b.NoBridge {
		features = nil
	}
	if p.board != nil {
		features = append(features[:len(features):len(features)], ext.Demand)
	}
	node := feed.Node{ID: b.ID, UserAgent: "tulle-proxy", Features: features}
	if b.Pod != nil {
		node.Metadata = b.Pod.Metadata
	}
	f, err := feed.New(feed.Config{
		Address:   b.XDS,
		Identity:  b.ID,
		TokenFile: b.TokenFile,
		CAFile:    b.CAFile,
		StateDir:  b.StateDir,
		SecretDir: b.SecretDir,
		Names:     p.names != nil,
		Demand:    p.demand(),
		Node:      node,
		Gate:      p.group.Gate().Insist,
		Publish:   func(s *conf.Snapshot) { p.publish(ctx, s) },
		Log:       p.log,
	})
	if err != nil {
		return err
	}
	p.source.Store(f)
	return f.Run(ctx)
}

// publish puts a snapshot in force: clusters first, then what names them.
func (p *Proxy) publish(ctx context.Context, s *conf.Snapshot) {
	var trust bool
	var bad map[string]error
	old := p.snapshot.Load()
	work := func(fn func()) { _ = p.group.Gate().Insist(context.WithoutCancel(ctx), fn) }
	if !maps.Equal(old.Secrets, s.Secrets) {
		work(func() { trust, bad = p.secrets.Update(s.Secrets) }) // before anything that shows or checks them
	}
	for _, n := range slices.Sorted(maps.Keys(bad)) {
		p.log.Warn("a certificate cannot be used", "secret", n, "error", bad[n])
	}
	if trust {
		p.reverify(ctx)
	}
	s = p.withHostPorts(s)
	if s.Names != nil && p.names != nil {
		p.names.Update(s.Names)
	}
	if few(old, s) { // it is done before a slot is had
		p.clusters.Apply(s, loop.Nanotime())
	} else {
		work(func() { p.clusters.Apply(s, loop.Nanotime()) })
		p.tidy.Reset(tidyAfter)
	}
	warm, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := p.clusters.Warm(warm); err != nil && ctx.Err() == nil {
		p.log.Warn("some names did not resolve in time", "error", err)
	}
	p.limits.Use(limitsOf(s))
	p.opening.Lock()
	defer p.opening.Unlock()
	p.snapshot.Store(s)
	if !p.listen(s, "") {
		go p.reopen(ctx, s)
	}
	for _, w := range p.workers {
		w.refresh()
	}
}

// few reports whether little is new of what clusters are made of, as after a
// lookup.
func few(old, s *conf.Snapshot) bool {
	const most = 16
	n := max(len(old.Clusters)-len(s.Clusters), 0) // gone
	for name, c := range s.Clusters {
		if n > most {
			return false
		}
		if old.Clusters[name] != c {
			n++
		}
	}
	for name, e := range s.Endpoints {
		if n > most {
			return false
		}
		if old.Endpoints[name] != e {
			n++
			for i := range e.Localities {
				n += len(e.Localities[i].Endpoints) / 64
			}
		}
	}
	return n <= most
}

// limitsOf lists the rate limits of all listeners.
func limitsOf(s *conf.Snapshot) (out []*conf.RateLimit) {
	of := func(c *conf.Chain) {
		if c == nil || c.HTTP == nil {
			return
		}
		for i := range c.HTTP.Filters {
			if l := c.HTTP.Filters[i].Limit; l != nil {
				out = append(out, l)
			}
		}
	}
	for _, l := range s.Listeners {
		for _, c := range l.Chains {
			of(c)
		}
		of(l.Default)
	}
	return out
}

// refresh has a worker's connections follow the snapshot in force. A loop that
// is behind goes to the newest at once: the ones between wait in no queue.
func (w *worker) refresh() {
	if w.refreshing.Swap(true) {
		return
	}
	posted := w.loop.Post(func() {
		w.refreshing.Store(false) // before the snapshot is read: a newer one posts again
		limit := w.p.boot.ListenersDrain.or(defaultListenersDrain)
		w.http.Refresh(limit)
		w.tcp.Refresh(w.p.snapshot.Load(), limit)
	})
	if !posted { // the next snapshot tries again
		w.refreshing.Store(false)
	}
}
