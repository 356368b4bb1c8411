package feed

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/feed/rpc"
)

// Times between two attempts to connect, each give or take half of it. Where
// nobody is there an attempt costs nobody anything, and a proxy comes back
// within a second and a half of its control plane; who is there and refuses
// may have too much to do.
const (
	firstRetry = 100 * time.Millisecond
	absent     = time.Second      // longest, when nobody was reached
	lastRetry  = 10 * time.Second // longest, when somebody was
	// stable is how long a stream has to last for the next attempt to be
	// a first one again.
	stable = 10 * time.Second
)

// link is an open stream. Requests are queued without bound by the feed's
// goroutine, which makes one per response and change of names.
type link struct {
	mu    sync.Mutex
	queue [][]byte
	wake  chan struct{}
	first bool // no request was made yet
}

func (l *link) put(b []byte) {
	l.mu.Lock()
	l.queue = append(l.queue, b)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *link) take() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queue
	l.queue = nil
	return q
}

// stream keeps a stream open until ctx ends.
func (f *Feed) stream(ctx context.Context) {
	wait := firstRetry
	for ctx.Err() == nil {
		start := time.Now()
		err := f.session(ctx)
		if ctx.Err() != nil {
			return
		}
		f.c.Log.Warn("stream to the control plane ended", "error", err)
		f.post(ctx, func() { f.status.LastError = err.Error() })
		if time.Since(start) > stable {
			wait = firstRetry
		}
		if errors.Is(err, rpc.ErrUnreachable) {
			wait = min(wait, absent)
		}
		sleep(ctx, wait/2+rand.N(wait))
		wait = min(2*wait, lastRetry)
	}
}

// session runs one stream to its end and returns why it ended.
func (f *Feed) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	method, parse := deltaMethod, parseDelta
	if f.c.StateOfTheWorld {
		method, parse = sotwMethod, parseSotw
	}
	s, err := f.t.open(ctx, method)
	if err != nil {
		return err
	}
	l := &link{wake: make(chan struct{}, 1), first: true}
	var wg sync.WaitGroup
	wg.Go(func() { l.write(ctx, s) })
	defer wg.Wait()
	defer cancel()
	f.post(ctx, func() { f.attach(l) })
	defer f.post(context.WithoutCancel(ctx), func() { f.detach(l) })
	for {
		b, err := s.recv()
		if err != nil {
			return err
		}
		var r *response
		if f.work(len(b), func() { r, err = parse(b) }); err != nil {
			return err
		}
		if !f.post(ctx, func() { f.receive(ctx, l, r) }) {
			return ctx.Err()
		}
	}
}

// write sends what is queued. A failed send ends with the receiving side.
func (l *link) write(ctx context.Context, s rawStream) {
	for {
		for _, b := range l.take() {
			if s.send(b) != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
	}
}

// attach makes l the stream and asks for everything anew.
func (f *Feed) attach(l *link) {
	f.link = l
	select {
	case f.back <- struct{}{}: // who waits to ask for a certificate may do so now
	default:
	}
	f.status.Since = time.Now()
	f.c.Log.Info("connected to the control plane", "address", f.c.Address)
	for k := range kinds {
		s := f.stores[k]
		s.open, s.answered, s.nonce = false, false, ""
	}
	f.demand.attached()
	f.ask(idx, nil, nil) // first: it says what need not be asked for
	for k := range kinds {
		if k == nds && !f.names() || k == idx {
			continue
		}
		f.ask(k, nil, nil)
	}
}

// names reports whether the table of names is asked for: on demand, hosts are.
func (f *Feed) names() bool { return f.c.Names && (f.demand == nil || f.demand.off) }

func (f *Feed) detach(l *link) {
	if f.link == l {
		f.link = nil
		f.status.Since = time.Now()
	}
}

// ask sends a request for a kind: the first of the stream, or a change of the
// names that are wanted.
func (f *Feed) ask(k kind, more, less []string) {
	s := f.stores[k]
	if f.link == nil || s.asked != nil && len(s.asked) == 0 && !s.open {
		return // a first request without names would be a wildcard
	}
	r := &request{typeURL: types[k].url, subscribe: more, unsubscribe: less}
	if !s.open {
		s.open = true
		r.known = map[string]string{}
		for name, e := range s.entries {
			if e.node != nil && e.version != "" {
				r.known[name] = e.version
				for _, n := range f.demand.namesOf(k, name) {
					r.known[n] = e.version
				}
			}
		}
		r.subscribe = slices.Sorted(maps.Keys(s.asked))
		if s.asked == nil {
			r.subscribe = f.demand.wildcard(k)
		}
	}
	f.send(k, r)
}

// send completes a request for the protocol of the stream.
func (f *Feed) send(k kind, r *request) {
	if f.link.first {
		f.link.first = false
		r.node = &f.c.Node
	}
	if !f.c.StateOfTheWorld {
		f.link.put(r.delta())
		return
	}
	s := f.stores[k]
	r.names, r.version, r.nonce = slices.Sorted(maps.Keys(s.asked)), s.version, s.nonce
	f.link.put(r.sotw())
}

// subscribe asks for what accepted and published nodes name, and forgets what
// none names any more. It reports whether anything was forgotten.
func (f *Feed) subscribe() (forgot bool) {
	for _, k := range []kind{eds, rds, sds} {
		s := f.stores[k]
		if s.asked == nil {
			continue
		}
		want := f.wanted(k)
		var more, less []string
		for name := range want {
			if !s.asked[name] {
				more = append(more, name)
			}
		}
		for name := range s.asked {
			if !want[name] {
				less = append(less, name)
			}
		}
		if len(more)+len(less) == 0 {
			continue
		}
		s.asked = want
		for _, name := range less {
			delete(f.refused, ref{k, name})
			if f.remove(k, name) {
				f.touch(k, name)
				forgot = true
			}
		}
		slices.Sort(more)
		slices.Sort(less)
		f.ask(k, more, less)
	}
	return forgot
}

// renamed reports whether other names may be wanted when a node that needs one
// thing is followed by one that needs another.
func (f *Feed) renamed(old, now *conf.Needs) bool {
	if old == now {
		return false
	}
	for k, of := range [kinds][2][]string{eds: {old.Endpoints, now.Endpoints}, rds: {old.Routes, now.Routes}, sds: {old.Secrets, now.Secrets}} {
		asked := f.stores[k].asked
		if asked == nil {
			continue
		}
		for _, n := range of[1] {
			if !asked[n] && f.askable(kind(k), n) {
				return true
			}
		}
		for _, n := range of[0] {
			if asked[n] && !slices.Contains(of[1], n) {
				return true
			}
		}
	}
	return false
}

// askable reports whether what nodes name is the control plane's to give.
func (f *Feed) askable(k kind, name string) bool {
	return k != sds || !isFile(name) && (name != ownPair || f.noCA)
}

// wanted are the names of a kind that are needed.
func (f *Feed) wanted(k kind) map[string]bool {
	out := map[string]bool{}
	add := func(n conf.Needs) {
		for _, name := range [kinds][]string{eds: n.Endpoints, rds: n.Routes, sds: n.Secrets}[k] {
			if f.askable(k, name) {
				out[name] = true
			}
		}
	}
	for _, from := range []kind{lds, cds} {
		for _, e := range f.stores[from].entries {
			add(*e.needs)
		}
		// What is published still, while its successor waits or after it is gone.
		for name := range f.warm.pending[from] {
			add(needs((&draft{s: *f.warm.snap}).get(from, name)))
		}
		for name := range f.warm.leaving[from] {
			add(needs((&draft{s: *f.warm.snap}).get(from, name)))
		}
	}
	return out
}

// maxRefused bounds the refusals that are kept for status.
const maxRefused = 10_000

// receive takes a response and answers it.
func (f *Feed) receive(ctx context.Context, l *link, r *response) {
	k, ok := kindOf(r.typeURL)
	if f.link != l || !ok {
		return
	}
	s := f.stores[k]
	f.demand.heard(k)
	changed, refused, err := f.take(ctx, k, r)
	if err != nil {
		return // ctx has ended
	}
	s.answered, s.nonce = true, r.nonce
	if k == idx && len(changed) > 0 {
		f.demand.indexed()
	}
	if f.stores[cds].answered && f.stores[lds].answered && f.demand.settled() {
		f.status.Synced, f.status.FromDisk = true, false
	}
	f.touch(k, changed...)
	for _, name := range changed {
		delete(f.refused, ref{k, name})
	}
	for name, why := range refused {
		if f.refused[ref{k, name}] != why {
			f.c.Log.Warn("resource refused", "type", conf.ShortType(r.typeURL), "name", name, "reason", why)
		}
		if len(f.refused) < maxRefused {
			f.refused[ref{k, name}] = why
		}
	}
	if len(refused) == 0 {
		s.version = r.version
	}
	f.send(k, &request{typeURL: r.typeURL, nonce: r.nonce, refusal: refusalText(refused)})
}
