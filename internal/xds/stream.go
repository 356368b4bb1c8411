package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// stream is one client's connection. The goroutine in run owns everything but
// what report guards.
type stream struct {
	c      Config
	caller *identity.Caller
	feed   *Feed
	wire   wire
	since  time.Time

	in  chan *request
	end chan error // the receiver's last word

	set     *Set            // the one being delivered
	newer   <-chan struct{} // closed when feed has a newer one
	adopted time.Time       // when set was taken
	again   int             // bytes sent since of resources that the client had before
	subs    map[string]*subscription
	urls    []string // of subs, in sending order
	sentAt  map[string]time.Time
	nonce   uint64
	until   time.Time             // when it may ask for more
	charge  func(n int) time.Time // counts names asked for, and says until when that is enough

	reportMu sync.Mutex
	agent    string
	report   map[string]TypeStatus // by type URL
}

func newStream(c Config, caller *identity.Caller, w wire) *stream {
	return &stream{
		c: c, caller: caller, wire: w, since: time.Now(),
		in: make(chan *request), end: make(chan error, 1),
		subs: map[string]*subscription{}, sentAt: map[string]time.Time{},
		report: map[string]TypeStatus{},
	}
}

// receive hands requests over one by one, so that a client which sends faster
// than it is served is held back by flow control.
func (s *stream) receive(ctx context.Context) {
	for {
		r, err := s.wire.receive()
		if err != nil {
			s.end <- err
			return
		}
		select {
		case s.in <- r:
		case <-ctx.Done():
			return
		}
	}
}

// first waits for the request that says what the client is.
func (s *stream) first(ctx context.Context) (*request, error) {
	t := time.NewTimer(firstWithin)
	defer t.Stop()
	select {
	case r := <-s.in:
		return r, nil
	case err := <-s.end:
		return nil, closing(err)
	case <-t.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "no request within %v", firstWithin)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// closing turns the receiver's error into the stream's: a client that closed
// its side is no error.
func closing(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// run serves the stream. At most one response is with the sender; while it is,
// newer sets only replace each other, so that a slow reader skips to the
// newest state.
func (s *stream) run(ctx context.Context, first *request) error {
	out, sent := make(chan *response), make(chan error, 1)
	defer close(out)
	go func() {
		for r := range out {
			sent <- s.wire.send(r, s.version(r))
		}
	}()
	var expiry <-chan time.Time
	if !s.caller.Expires.IsZero() {
		t := time.NewTimer(time.Until(s.caller.Expires))
		defer t.Stop()
		expiry = t.C
	}
	s.adopt()
	if err := s.take(first); err != nil {
		return err
	}
	wake := time.NewTimer(0)
	defer wake.Stop()
	sending := false
	for {
		if !sending {
			if r := s.next(); r != nil {
				sending = true
				out <- r
			}
		}
		newer := s.newer
		if d := s.sleep(); d > 0 {
			wake.Reset(d)
		} else {
			wake.Stop()
		}
		if time.Since(s.adopted) < s.hold() {
			newer = nil // wake is set for the end of the hold
		}
		in := s.in
		if time.Now().Before(s.until) {
			in = nil // wake is set for the end of it
		}
		select {
		case r := <-in:
			if err := s.take(r); err != nil {
				return err
			}
		case err := <-sent:
			if err != nil {
				return err
			}
			sending = false
		case <-newer:
			s.adopt()
		case <-wake.C:
		case err := <-s.end:
			return closing(err)
		case <-expiry:
			return status.Error(codes.Unauthenticated, "the credential of this stream has expired")
		case <-s.caller.Revoked:
			return status.Error(codes.Unauthenticated, "the credential of this stream was revoked")
		case <-s.feed.Gone:
			return status.Error(codes.Unauthenticated, "this workload has left the mesh")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func agent(n *Node) string {
	if n == nil {
		return ""
	}
	if n.Version == "" {
		return n.UserAgent
	}
	return n.UserAgent + " " + n.Version
}

// adopt takes the newest set.
func (s *stream) adopt() {
	old := s.set
	s.set, s.newer = s.feed.Get()
	s.adopted, s.again = time.Now(), 0
	for url, sub := range s.subs {
		if names, ok := s.set.since(old, url); ok {
			sub.look(names...)
		} else {
			sub.all = true
		}
	}
}

// hold is how long a set is delivered before the next is looked at. A resource
// that is large and changes all the time (a service that grows to thousands of
// endpoints) is so sent at a bounded rate, and in its newest state.
func (s *stream) hold() time.Duration {
	return min(max(hold, time.Duration(s.again)*time.Second/againRate), longestHold)
}

// sleep is how long nothing can become due without an event; 0: for ever.
func (s *stream) sleep() time.Duration {
	var d time.Duration
	sooner := func(x time.Duration) {
		if x > 0 && (d == 0 || x < d) {
			d = x
		}
	}
	sooner(s.hold() - time.Since(s.adopted))
	sooner(time.Until(s.until))
	for url, sub := range s.subs {
		if sub.flight != nil {
			sooner(patience - time.Since(s.sentAt[url]))
			sooner(digest - time.Since(s.sentAt[url]))
		}
	}
	return d
}

// take applies one request.
func (s *stream) take(r *request) error {
	sub, first := s.subs[r.typeURL], false
	if sub == nil {
		if r.typeURL == "" {
			return status.Error(codes.InvalidArgument, "request without a type_url")
		}
		if len(s.subs) >= s.c.Types {
			return status.Errorf(codes.ResourceExhausted, "more than %d types on one stream", s.c.Types)
		}
		sub, first = newSubscription(r.typeURL, s.wire.delta()), true
		sub.demand = s.feed.Ask != nil
		s.subs[r.typeURL] = sub
		s.urls = inOrder(s.subs)
	}
	for _, list := range [][]string{r.names, r.subscribe} {
		if err := s.bound(sub, list); err != nil {
			return err
		}
	}
	if len(r.known) > s.c.NamesPerType {
		return status.Errorf(codes.ResourceExhausted, "more than %d initial versions", s.c.NamesPerType)
	}
	if s.wire.delta() {
		if err := s.askAbout(sub, r); err != nil {
			return err
		}
		s.takeDelta(sub, r, first)
	} else {
		s.takeSotw(sub, r, first)
	}
	s.note(sub)
	return nil
}

// askAbout has the answers to the names that a client asks for in the set.
func (s *stream) askAbout(sub *subscription, r *request) error {
	if s.feed.Ask == nil || len(r.subscribe)+len(r.unsubscribe) == 0 || !slices.Contains(DemandTypes, sub.typeURL) {
		return nil
	}
	want := slices.DeleteFunc(slices.Clone(r.subscribe), func(n string) bool { return n == "*" })
	total := len(want)
	for _, url := range DemandTypes {
		if other := s.subs[url]; other != nil {
			total += len(other.names)
		}
	}
	if total > s.c.Asks {
		return status.Errorf(codes.ResourceExhausted, "more than %d names asked for", s.c.Asks)
	}
	if len(want)+len(r.unsubscribe) > 0 {
		s.until = s.charge(len(want))
		s.feed.Ask(sub.typeURL, want, r.unsubscribe)
		s.reportMu.Lock()
		t := s.report[sub.typeURL]
		t.Asked += uint64(len(want))
		s.report[sub.typeURL] = t
		s.reportMu.Unlock()
		s.adopt()
	}
	return nil
}

// bound refuses lists that would grow a subscription beyond its limit.
func (s *stream) bound(sub *subscription, list []string) error {
	held := 0
	if sub.delta {
		held = len(sub.names)
	}
	if held+len(list) > s.c.NamesPerType {
		return status.Errorf(codes.ResourceExhausted, "more than %d names of one type", s.c.NamesPerType)
	}
	for _, n := range list {
		if len(n) > maxName {
			return status.Errorf(codes.InvalidArgument, "resource name of %d bytes", len(n))
		}
	}
	return nil
}

// takeSotw: a request is a subscription, and the answer to the response whose
// nonce it carries. One with an older nonce crossed a response on its way: it
// answers nothing, but its subscription is the client's newest and counts, else
// a name that was dropped and taken up again would be missed.
func (s *stream) takeSotw(sub *subscription, r *request, first bool) {
	crossed := r.nonce != "" && r.nonce != sub.last && !first
	answered := false
	if r.nonce != "" && !crossed && sub.flight != nil {
		answered = true
		s.answer(sub, r)
	} else if crossed && r.refused {
		s.tooLate(sub, r)
	}
	more, same := sub.resubscribe(r.names, first)
	switch {
	case sub.full && more, first && sub.wildcard:
		sub.owed = true
	case same && !answered && !crossed && !first && !r.refused:
		// It asks again for what it was given: Envoy does when a cluster or
		// listener that was updated wants its endpoints or routes anew.
		sub.repeat()
	}
}

// takeDelta: an answer, a change of subscription, or both.
func (s *stream) takeDelta(sub *subscription, r *request, first bool) {
	if r.nonce != "" && r.nonce == sub.last && sub.flight != nil {
		s.answer(sub, r)
	} else if r.refused {
		s.tooLate(sub, r)
	}
	if first || len(r.subscribe) > 0 || len(r.known) > 0 {
		sub.subscribe(r.subscribe, r.known, first)
	}
	if len(r.unsubscribe) > 0 {
		sub.unsubscribe(r.unsubscribe)
	}
}

// tooLate takes a refusal of a response after which others were sent, because
// the client had not answered in time: it is told like any other.
func (s *stream) tooLate(sub *subscription, r *request) {
	list := sub.late(r.nonce, r.refusal)
	if len(list) == 0 {
		return
	}
	s.reportMu.Lock()
	t := s.report[sub.typeURL]
	t.Reason = r.refusal[:min(len(r.refusal), maxReason)]
	t.Refusals++
	s.report[sub.typeURL] = t
	s.reportMu.Unlock()
	for _, x := range list {
		if s.feed.Rejected != nil {
			s.feed.Rejected(x)
		}
	}
}

// answer settles the response in flight.
func (s *stream) answer(sub *subscription, r *request) {
	now := time.Now()
	s.reportMu.Lock()
	t := s.report[sub.typeURL]
	t.Acked, t.AckedAt = t.Sent, now
	if r.refused {
		t.Reason = r.refusal
		t.Refusals++
		if len(t.Reason) > maxReason {
			t.Reason = t.Reason[:maxReason]
		}
	}
	s.report[sub.typeURL] = t
	s.reportMu.Unlock()
	if !r.refused {
		sub.accept()
		return
	}
	for _, x := range sub.refuse(r.refusal) {
		if s.feed.Rejected != nil {
			s.feed.Rejected(x)
		}
	}
}

// next is the most urgent response that may be sent now. News go in the order
// of types, each after its needs were digested; what is gone goes when nothing
// refers to it any more.
func (s *stream) next() *response {
	for _, url := range s.urls {
		sub := s.subs[url]
		if sub.idle() && !sub.owed || s.waiting(url, patience) || s.feed.Ask == nil && slices.ContainsFunc(needs[url], func(n string) bool { return s.waiting(n, digest) }) {
			continue
		}
		removals := !slices.ContainsFunc(users[url], s.behind)
		r := sub.next(s.set, removals)
		if r == nil {
			continue
		}
		s.nonce++
		r.nonce = strconv.FormatUint(s.nonce, 10)
		sub.last = r.nonce
		s.sentAt[url] = time.Now()
		if url == ClusterType {
			s.rewarm(sub)
		}
		s.reportMu.Lock()
		t := s.report[url]
		t.Sent, t.SentAt = s.set.version(), time.Now()
		t.Responses++
		t.Resources += uint64(len(r.resources))
		t.Removed += uint64(len(r.removed))
		for i, n := range r.causes {
			t.Causes[i] += n
		}
		for _, x := range r.resources {
			t.Bytes += uint64(len(x.Body))
			if old := sub.flight.before[x.Name]; old != nil && old != gone {
				s.again += len(x.Body)
			}
		}
		s.report[url] = t
		s.reportMu.Unlock()
		s.note(sub)
		return r
	}
	return nil
}

// rewarm: a client that was sent a changed cluster warms it anew and waits for
// its endpoints, whether or not these changed; Envoy does not always ask.
func (s *stream) rewarm(clusters *subscription) {
	eds := s.subs[EndpointType]
	if eds == nil || s.feed.Ask != nil {
		return
	}
	for _, n := range clusters.flight.changed {
		if clusters.flight.before[n] != nil {
			eds.resend(n)
		}
	}
}

// waiting reports whether a type's response is unanswered for less than max.
func (s *stream) waiting(url string, max time.Duration) bool {
	sub := s.subs[url]
	return sub != nil && sub.flight != nil && time.Since(s.sentAt[url]) < max
}

// behind reports whether the client has yet to be told, or to digest, news or
// removals of a type; or, on demand, to say which names of it lead to the rest.
func (s *stream) behind(url string) bool {
	sub := s.subs[url]
	if sub == nil {
		return s.feed.Ask != nil && slices.Contains(DemandTypes, url)
	}
	if s.waiting(url, patience) {
		return true
	}
	if sub.idle() {
		return false
	}
	for _, n := range sub.candidates(s.set) {
		r, have := s.set.Find(url, n), sub.sent[n]
		if r != nil && sub.news(r) || r == nil && have != nil && have != gone {
			return true
		}
	}
	return false
}

func (s *Set) version() string {
	if s == nil {
		return ""
	}
	return s.Version
}

// version of the set behind a response, as the client is told. Called by the
// sender: it reads what next wrote under the lock.
func (s *stream) version(r *response) string {
	s.reportMu.Lock()
	defer s.reportMu.Unlock()
	return s.report[r.typeURL].Sent
}

// note brings the report about a type up to date.
func (s *stream) note(sub *subscription) {
	s.reportMu.Lock()
	defer s.reportMu.Unlock()
	t := s.report[sub.typeURL]
	t.Type, t.Names, t.Wildcard, t.Held = sub.typeURL, len(sub.names), sub.wildcard, len(sub.sent)-sub.absent
	t.Absent = sub.absent
	t.Refused = slices.Sorted(maps.Keys(sub.bad))
	if len(t.Refused) == 0 {
		t.Reason = ""
	}
	s.report[sub.typeURL] = t
}

// status of the stream; called by any goroutine.
func (s *stream) status() Status {
	s.reportMu.Lock()
	defer s.reportMu.Unlock()
	st := Status{Key: s.feed.Key, UserAgent: s.agent, Proof: fmt.Sprint(s.caller.Proof), Since: s.since, Delta: s.wire.delta(), Demand: s.feed.Ask != nil}
	for _, url := range slices.Sorted(maps.Keys(s.report)) {
		st.Types = append(st.Types, s.report[url])
	}
	return st
}

// inOrder lists the types of a stream as news about them is sent: the known
// ones in their order, then the others by name.
func inOrder(subs map[string]*subscription) []string {
	var out []string
	for _, url := range order {
		if subs[url] != nil {
			out = append(out, url)
		}
	}
	for _, url := range slices.Sorted(maps.Keys(subs)) {
		if !slices.Contains(order, url) {
			out = append(out, url)
		}
	}
	return out
}
