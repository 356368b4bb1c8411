package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/watch"
)

// fake is the client's end of a stream without a network. Nothing is buffered:
// a test that does not read is a slow reader.
type fake struct {
	t       *testing.T
	isDelta bool
	in      chan *request
	out     chan *response
	ended   chan error
	cancel  context.CancelFunc

	sets     watch.Value[*Set]
	set      *Set
	n        int
	rejected []Rejection
	closed   bool
	stopped  chan struct{}
}

func (f *fake) delta() bool { return f.isDelta }

func (f *fake) receive() (*request, error) {
	select {
	case r, ok := <-f.in:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-f.stopped:
		return nil, errors.New("stopped")
	}
}

func (f *fake) send(r *response, version string) error {
	select {
	case f.out <- r:
		return nil
	case <-f.stopped:
		return errors.New("stopped")
	}
}

// start runs a server with one stream inside the test's bubble.
func start(t *testing.T, isDelta bool, edit func(*Config, *identity.Caller)) *fake {
	f := &fake{t: t, isDelta: isDelta, in: make(chan *request), out: make(chan *response), ended: make(chan error, 1), stopped: make(chan struct{})}
	caller := &identity.Caller{ID: identity.ID{TrustDomain: "td", Namespace: "shop", Account: "orders"}}
	c := Config{
		Authenticate: func(context.Context) (*identity.Caller, error) { return caller, nil },
		Open: func(context.Context, *identity.Caller, *Node) (*Feed, error) {
			return &Feed{
				Key:      "shop/orders-1",
				Get:      f.sets.Get,
				Rejected: func(r Rejection) { f.rejected = append(f.rejected, r) },
				Close:    func() { f.closed = true },
			}, nil
		},
	}
	if edit != nil {
		edit(&c, caller)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	s := New(c)
	go func() {
		f.ended <- s.serve(ctx, f)
		close(f.stopped)
	}()
	return f
}

// stop ends the stream from the client's side and checks that nothing is left.
func (f *fake) stop() {
	f.cancel()
	<-f.stopped
}

// put publishes a set, written as "cds a=1 b=1, eds a=1".
func (f *fake) put(text string) {
	var rs []Resource
	for _, part := range strings.Split(text, ",") {
		w := strings.Fields(part)
		for _, x := range w[min(1, len(w)):] {
			name, body, _ := strings.Cut(x, "=")
			rs = append(rs, Resource{Type: urlOf[w[0]], Name: name, Body: []byte(body)})
		}
	}
	f.n++
	f.set = NewSet(fmt.Sprint(f.n), f.set, rs)
	f.sets.Set(f.set)
}

var urlOf = map[string]string{"cds": ClusterType, "eds": EndpointType, "lds": ListenerType, "rds": RouteType, "sds": SecretType}

func short(url string) string {
	for k, v := range urlOf {
		if v == url {
			return k
		}
	}
	return url
}

// ask sends a first or changed subscription: names, or with delta "+a -b".
func (f *fake) ask(typ, nonce string, names ...string) {
	r := &request{typeURL: urlOf[typ], nonce: nonce}
	if !f.isDelta {
		r.names = names
	}
	for _, n := range names {
		if f.isDelta && n[0] == '-' {
			r.unsubscribe = append(r.unsubscribe, n[1:])
		} else if f.isDelta {
			r.subscribe = append(r.subscribe, n)
		}
	}
	f.in <- r
}

// nack refuses a response; on a state-of-the-world stream the subscription is
// repeated in names.
func (f *fake) nack(r *response, text string, names ...string) {
	f.in <- &request{typeURL: r.typeURL, nonce: r.nonce, refused: true, refusal: text, names: names}
}

func (f *fake) ack(r *response, names ...string) {
	f.in <- &request{typeURL: r.typeURL, nonce: r.nonce, names: names}
}

// want reads one response and compares it with "cds a=1 b=2 -c".
func (f *fake) want(text string) *response {
	f.t.Helper()
	select {
	case r := <-f.out:
		if got := show(r); got != text {
			f.t.Fatalf("got %q, want %q", got, text)
		}
		return r
	case err := <-f.ended:
		f.t.Fatalf("stream ended: %v; want %q", err, text)
	case <-time.After(time.Minute):
		f.t.Fatalf("nothing came, want %q", text)
	}
	return nil
}

func show(r *response) string {
	w := []string{short(r.typeURL)}
	for _, x := range r.resources {
		w = append(w, x.Name+"="+string(x.Body))
	}
	for _, n := range r.removed {
		w = append(w, "-"+n)
	}
	return strings.Join(w, " ")
}

// quiet checks that nothing more comes, for longer than any timer.
func (f *fake) quiet() {
	f.t.Helper()
	select {
	case r := <-f.out:
		f.t.Fatalf("got %q, want silence", show(r))
	case err := <-f.ended:
		f.t.Fatalf("stream ended: %v", err)
	case <-time.After(time.Minute):
	}
}

func (f *fake) wantEnd(code codes.Code) {
	f.t.Helper()
	select {
	case err := <-f.ended:
		if status.Code(err) != code {
			f.t.Fatalf("ended with %v, want %v", err, code)
		}
	case r := <-f.out:
		f.t.Fatalf("got %q, want the end", show(r))
	case <-time.After(2 * time.Hour):
		f.t.Fatal("stream did not end")
	}
}

func both(t *testing.T, name string, run func(t *testing.T, f *fake)) {
	for _, d := range []bool{false, true} {
		proto := map[bool]string{false: "sotw", true: "delta"}[d]
		t.Run(name+" "+proto, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, d, nil)
				defer f.stop()
				run(t, f)
			})
		})
	}
}

func bubble(t *testing.T, isDelta bool, run func(t *testing.T, f *fake)) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, isDelta, nil)
		defer f.stop()
		run(t, f)
	})
}

func TestWildcard(t *testing.T) {
	both(t, "everything, then only news", func(t *testing.T, f *fake) {
		f.put("cds a=1 b=1")
		f.ask("cds", "")
		r := f.want("cds a=1 b=1")
		f.ack(r)
		f.quiet()
		f.put("cds a=1 b=1") // same bytes
		f.quiet()
		f.put("cds a=1 b=2")
		if f.isDelta {
			f.want("cds b=2")
		} else {
			f.want("cds a=1 b=2")
		}
	})
	both(t, "an empty mesh is an answer", func(t *testing.T, f *fake) {
		f.ask("cds", "")
		f.ack(f.want("cds"))
		f.ask("lds", "", "*")
		f.ack(f.want("lds"), "*")
		f.quiet()
	})
	both(t, "removal", func(t *testing.T, f *fake) {
		f.put("lds a=1 b=1")
		f.ask("lds", "")
		f.ack(f.want("lds a=1 b=1"))
		f.put("lds a=1")
		if f.isDelta {
			f.ack(f.want("lds -b"))
		} else {
			f.ack(f.want("lds a=1"))
		}
		f.quiet()
	})
}

func TestByName(t *testing.T) {
	bubble(t, false, func(t *testing.T, f *fake) {
		f.put("eds a=1 b=1 c=1")
		f.ask("eds", "", "a")
		r := f.want("eds a=1")
		f.ack(r, "a")
		f.ask("eds", r.nonce, "a", "b")
		r = f.want("eds b=1") // a part is enough for endpoints
		f.ack(r, "a", "b")
		f.put("eds a=2 b=1 c=2")
		r = f.want("eds a=2")
		f.ack(r, "a", "b")
		f.ask("eds", r.nonce, "b") // a is no longer wanted
		f.put("eds a=3 b=1 c=3")
		f.quiet()
		f.ask("eds", r.nonce, "a", "b") // and wanted again
		f.ack(f.want("eds a=3"), "a", "b")
		f.quiet()
	})
}

func TestListenersByNameAreTheWholeState(t *testing.T) {
	bubble(t, false, func(t *testing.T, f *fake) {
		f.put("lds x:80=1 y:80=1")
		f.ask("lds", "", "x:80", "nope:80")
		r := f.want("lds x:80=1") // and so nope:80 does not exist
		f.ack(r, "x:80", "nope:80")
		f.quiet()
		f.ask("lds", r.nonce, "x:80", "nope:80", "y:80")
		r = f.want("lds x:80=1 y:80=1")
		f.ack(r, "x:80", "nope:80", "y:80")
		f.ask("lds", r.nonce, "x:80", "gone:80")
		f.ack(f.want("lds x:80=1"), "x:80", "gone:80")
		f.quiet()
	})
}

func TestEmptyListAfterNamesIsNoWildcard(t *testing.T) {
	bubble(t, false, func(t *testing.T, f *fake) {
		f.put("cds a=1 b=1")
		f.ask("cds", "", "a")
		r := f.want("cds a=1")
		f.ack(r)
		f.put("cds a=2 b=2")
		f.quiet()
	})
}

func TestDeltaNames(t *testing.T) {
	bubble(t, true, func(t *testing.T, f *fake) {
		f.put("rds a=1")
		f.ask("rds", "", "a", "b")
		f.ack(f.want("rds a=1 -b")) // an explicit no
		f.quiet()
		f.put("rds a=1 b=1")
		f.ack(f.want("rds b=1")) // which is revoked
		f.put("rds a=2")
		f.ack(f.want("rds a=2 -b"))
		f.ask("rds", "", "-a")
		f.put("rds a=3")
		f.quiet()
		f.ask("rds", "", "a")
		f.ack(f.want("rds a=3"))
		f.ask("rds", "", "a") // a client that asks has dropped it
		f.ack(f.want("rds a=3"))
		f.quiet()
	})
}

func TestDeltaResumes(t *testing.T) {
	bubble(t, true, func(t *testing.T, f *fake) {
		f.put("cds a=1 b=2 d=1, eds a=1 b=2")
		f.in <- &request{typeURL: ClusterType, known: map[string]string{"a": Hash([]byte("1")), "b": Hash([]byte("1")), "c": Hash([]byte("1"))}}
		f.ack(f.want("cds b=2 d=1 -c"))
		f.in <- &request{typeURL: EndpointType, subscribe: []string{"a", "b"}, known: map[string]string{"a": Hash([]byte("1")), "b": Hash([]byte("1"))}}
		f.ack(f.want("eds b=2"))
		f.quiet()
	})
}

func TestStaleNonceIsNoAnswer(t *testing.T) {
	bubble(t, false, func(t *testing.T, f *fake) {
		f.put("eds a=1 b=1")
		f.ask("eds", "", "a")
		r1 := f.want("eds a=1")
		f.ack(r1, "a")
		f.put("eds a=2 b=1")
		r2 := f.want("eds a=2")
		f.ask("eds", r1.nonce, "a", "b") // crossed r2
		synctest.Wait()
		select {
		case r := <-f.out:
			t.Fatalf("%q while the answer is awaited", show(r))
		default:
		}
		f.ack(r2, "a", "b")
		f.ack(f.want("eds b=1"), "a", "b")
	})
}

func TestRefusedResourceIsNotSentAgainUntilItChanges(t *testing.T) {
	both(t, "named", func(t *testing.T, f *fake) {
		f.put("lds a=1 b=1")
		f.ask("lds", "")
		f.ack(f.want("lds a=1 b=1"))
		f.put("lds a=2 b=2")
		r := f.want("lds a=2 b=2")
		f.nack(r, "Error adding/updating listener(s) b: bind: permission denied")
		// a is sent again, for the client may have refused the lot; b keeps its
		// last good version.
		if f.isDelta {
			f.ack(f.want("lds a=2"))
		} else {
			f.ack(f.want("lds a=2 b=1"))
		}
		f.quiet()
		if len(f.rejected) != 1 || f.rejected[0] != (Rejection{ListenerType, "b", Hash([]byte("2")), "bind: permission denied"}) {
			t.Errorf("rejected: %+v", f.rejected)
		}
		f.put("lds a=3 b=2")
		if f.isDelta {
			f.ack(f.want("lds a=3"))
		} else {
			f.ack(f.want("lds a=3 b=1"))
		}
		f.put("lds a=3 b=3")
		if f.isDelta {
			f.ack(f.want("lds b=3"))
		} else {
			f.ack(f.want("lds a=3 b=3"))
		}
		f.quiet()
	})
	both(t, "never had a good one", func(t *testing.T, f *fake) {
		f.put("cds a=1 b=bad")
		f.ask("cds", "")
		f.nack(f.want("cds a=1 b=bad"), "b: no")
		f.ack(f.want("cds a=1"))
		f.quiet()
	})
	both(t, "the only one", func(t *testing.T, f *fake) {
		f.put("rds 80=1")
		f.ask("rds", "", "80")
		f.nack(f.want("rds 80=1"), "route: unknown cluster", "80")
		f.quiet()
		if len(f.rejected) != 1 || f.rejected[0].Name != "80" || f.rejected[0].Reason != "route: unknown cluster" {
			t.Errorf("rejected: %+v", f.rejected)
		}
		f.put("rds 80=2")
		f.ack(f.want("rds 80=2"), "80")
	})
}

// A client that says only that something was wrong gets halves until it is
// known what.
func TestRefusalWithoutNameIsIsolated(t *testing.T) {
	both(t, "one of five", func(t *testing.T, f *fake) {
		f.put("eds a=1 b=1 c=1 d=bad e=1")
		names := []string{"a", "b", "c", "d", "e"}
		f.ask("eds", "", names...)
		good := map[string]bool{}
		for range 20 {
			var r *response
			select {
			case r = <-f.out:
			case <-time.After(time.Minute):
			}
			if r == nil {
				break
			}
			if strings.Contains(show(r), "bad") {
				f.nack(r, "protobuf was not to my taste", names...)
				continue
			}
			for _, x := range r.resources {
				good[x.Name] = true
			}
			f.ack(r, names...)
		}
		if len(good) != 4 || good["d"] {
			t.Errorf("delivered: %v", good)
		}
		if len(f.rejected) != 1 || f.rejected[0].Name != "d" {
			t.Errorf("rejected: %+v", f.rejected)
		}
	})
}

// Make before break: clusters that routes still use are removed last, and
// routes wait until their new clusters were digested.
func TestOrderOfAChange(t *testing.T) {
	both(t, "", func(t *testing.T, f *fake) {
		f.put("cds old=1, eds old=1, lds l=1, rds r=old")
		f.ask("cds", "")
		f.ack(f.want("cds old=1"))
		f.ask("eds", "", "old")
		f.ack(f.want("eds old=1"), "old")
		f.ask("lds", "")
		f.ack(f.want("lds l=1"))
		f.ask("rds", "", "r")
		f.ack(f.want("rds r=old"), "r")

		f.put("cds new=1, eds new=1, lds l=1, rds r=new")
		var cds *response
		if f.isDelta {
			cds = f.want("cds new=1")
		} else {
			cds = f.want("cds new=1 old=1")
		}
		f.ask("eds", f.last("eds"), "old", "new")
		f.ack(f.want("eds new=1"), "old", "new")
		synctest.Wait()
		select {
		case r := <-f.out:
			t.Fatalf("%q before the clusters were digested", show(r))
		default:
		}
		f.ack(cds)
		rds := f.want("rds r=new")
		synctest.Wait()
		select {
		case r := <-f.out:
			t.Fatalf("%q before the routes were digested", show(r))
		default:
		}
		f.ack(rds, "r")
		if f.isDelta {
			f.ack(f.want("cds -old"))
			f.ack(f.want("eds -old"))
		} else {
			f.ack(f.want("cds new=1"))
		}
		f.quiet()
	})
}

// last is the nonce of the newest response of a type, as a client that
// answered it would use. Every response was numbered in turn.
func (f *fake) last(string) string {
	if f.isDelta {
		return ""
	}
	return "2"
}

func TestRemovalIsNotHeldForEver(t *testing.T) {
	both(t, "a client that never answers", func(t *testing.T, f *fake) {
		f.put("cds a=1 b=1, rds r=1")
		f.ask("cds", "")
		f.ack(f.want("cds a=1 b=1"))
		f.ask("rds", "", "r")
		f.ack(f.want("rds r=1"), "r")
		f.put("cds a=1, rds r=2")
		begin := time.Now()
		f.want("rds r=2")
		if f.isDelta {
			f.want("cds -b")
		} else {
			f.want("cds a=1")
		}
		if d := time.Since(begin); d > patience+time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestChangedClusterGetsItsEndpointsAgain(t *testing.T) {
	both(t, "", func(t *testing.T, f *fake) {
		f.put("cds a=1 b=1, eds a=1 b=1")
		f.ask("cds", "")
		f.ack(f.want("cds a=1 b=1"))
		f.ask("eds", "", "a", "b")
		f.ack(f.want("eds a=1 b=1"), "a", "b")
		f.put("cds a=2 b=1, eds a=1 b=1")
		if f.isDelta {
			f.ack(f.want("cds a=2"))
		} else {
			f.ack(f.want("cds a=2 b=1"))
		}
		f.ack(f.want("eds a=1"), "a", "b")
		f.quiet()
	})
	bubble(t, false, func(t *testing.T, f *fake) {
		f.put("eds a=1 b=1")
		f.ask("eds", "", "a", "b")
		r := f.want("eds a=1 b=1")
		f.ack(r, "a", "b")
		f.ask("eds", r.nonce, "a", "b") // Envoy asks again when it warms a cluster
		f.ack(f.want("eds a=1 b=1"), "a", "b")
		f.quiet()
	})
}

func TestEndOfStream(t *testing.T) {
	run := func(name string, edit func(*Config, *identity.Caller), then func(*fake), want codes.Code) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, false, edit)
				defer f.stop()
				then(f)
				f.wantEnd(want)
			})
		})
	}
	subscribed := func(f *fake) {
		f.put("cds a=1")
		f.ask("cds", "")
		f.ack(f.want("cds a=1"))
	}
	run("credential expires", func(_ *Config, c *identity.Caller) { c.Expires = time.Now().Add(time.Hour) }, subscribed, codes.Unauthenticated)
	run("credential is revoked", func(_ *Config, c *identity.Caller) {
		ch := make(chan struct{})
		time.AfterFunc(time.Minute, func() { close(ch) })
		c.Revoked = ch
	}, subscribed, codes.Unauthenticated)
	run("credential expires while the client does not read", func(_ *Config, c *identity.Caller) { c.Expires = time.Now().Add(time.Hour) }, func(f *fake) {
		f.put("cds a=1")
		f.ask("cds", "")
		synctest.Wait()
		select { // the sender is stuck; the end must come all the same
		case err := <-f.ended:
			f.ended <- err
		case <-time.After(2 * time.Hour):
			f.t.Fatal("stream did not end")
		}
	}, codes.Unauthenticated)
	run("client hangs up", nil, func(f *fake) { subscribed(f); close(f.in) }, codes.OK)
	run("no request", nil, func(*fake) {}, codes.DeadlineExceeded)
	run("no type", nil, func(f *fake) { f.in <- &request{} }, codes.InvalidArgument)
	run("too many types", func(c *Config, _ *identity.Caller) { c.Types = 2 }, func(f *fake) {
		for i := range 3 {
			f.in <- &request{typeURL: fmt.Sprint("t", i), names: []string{"x"}}
		}
	}, codes.ResourceExhausted)
	run("too many names", func(c *Config, _ *identity.Caller) { c.NamesPerType = 2 }, func(f *fake) {
		f.in <- &request{typeURL: RouteType, names: []string{"a", "b", "c"}}
	}, codes.ResourceExhausted)
	run("long name", nil, func(f *fake) {
		f.in <- &request{typeURL: RouteType, names: []string{strings.Repeat("x", maxName+1)}}
	}, codes.InvalidArgument)
	run("denied", func(c *Config, _ *identity.Caller) {
		c.Open = func(context.Context, *identity.Caller, *Node) (*Feed, error) {
			return nil, fmt.Errorf("%w: not you", ErrDenied)
		}
	}, func(f *fake) { f.in <- &request{typeURL: RouteType} }, codes.PermissionDenied)
	run("unknown", func(c *Config, _ *identity.Caller) {
		c.Open = func(context.Context, *identity.Caller, *Node) (*Feed, error) {
			return nil, fmt.Errorf("%w: not yet", ErrUnknown)
		}
	}, func(f *fake) { f.in <- &request{typeURL: RouteType} }, codes.Unavailable)
	run("a bug", func(c *Config, _ *identity.Caller) {
		c.Open = func(context.Context, *identity.Caller, *Node) (*Feed, error) {
			return &Feed{Get: func() (*Set, <-chan struct{}) { panic("a bug") }}, nil
		}
	}, func(f *fake) { f.in <- &request{typeURL: RouteType} }, codes.Internal)
	run("not authenticated", func(c *Config, _ *identity.Caller) {
		c.Authenticate = func(context.Context) (*identity.Caller, error) {
			return nil, status.Error(codes.Unauthenticated, "who?")
		}
	}, func(*fake) {}, codes.Unauthenticated)
}

func TestDeltaNamesAreBoundedOverRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true, func(c *Config, _ *identity.Caller) { c.NamesPerType = 3 })
		defer f.stop()
		f.put("rds a=1")
		f.ask("rds", "", "a")
		f.ack(f.want("rds a=1"))
		f.ask("rds", "", "b", "c")
		f.ack(f.want("rds -b -c"))
		f.ask("rds", "", "d")
		f.wantEnd(codes.ResourceExhausted)
		if !f.closed {
			t.Error("the feed was not closed")
		}
	})
}

func TestStreamsPerKeyAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sets watch.Value[*Set]
		s := New(Config{
			StreamsPerKey: 2,
			Authenticate:  func(context.Context) (*identity.Caller, error) { return &identity.Caller{}, nil },
			Open: func(context.Context, *identity.Caller, *Node) (*Feed, error) {
				return &Feed{Key: "k", Get: sets.Get}, nil
			},
		})
		ends := make([]chan error, 3)
		ctx, cancel := context.WithCancel(context.Background())
		for i := range ends {
			ends[i] = make(chan error, 1)
			f := &fake{t: t, in: make(chan *request), out: make(chan *response, 9), stopped: make(chan struct{})}
			go func() {
				ends[i] <- s.serve(ctx, f)
				close(f.stopped)
			}()
			f.in <- &request{typeURL: RouteType, names: []string{"x"}}
			synctest.Wait()
		}
		if err := <-ends[2]; status.Code(err) != codes.ResourceExhausted {
			t.Errorf("third stream: %v", err)
		}
		if n := len(s.Status()); n != 2 {
			t.Errorf("status of %d streams", n)
		}
		cancel()
		<-ends[0]
		<-ends[1]
		if len(s.Status()) != 0 || len(s.perKey) != 0 {
			t.Errorf("left over: %v", s.perKey)
		}
	})
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, isDelta: true, in: make(chan *request), out: make(chan *response), stopped: make(chan struct{})}
		s := New(Config{
			Authenticate: func(context.Context) (*identity.Caller, error) { return &identity.Caller{}, nil },
			Open: func(context.Context, *identity.Caller, *Node) (*Feed, error) {
				return &Feed{Key: "shop/orders-1", Get: f.sets.Get}, nil
			},
		})
		ctx, cancel := context.WithCancel(context.Background())
		go func() { s.serve(ctx, f); close(f.stopped) }()
		f.put("cds a=1 b=1")
		f.in <- &request{typeURL: ClusterType, node: &Node{UserAgent: "envoy", Version: "1.40"}}
		r := f.want("cds a=1 b=1")
		synctest.Wait()
		st := s.Status()[0]
		if ty := st.Types[0]; st.Key != "shop/orders-1" || st.UserAgent != "envoy 1.40" || !st.Delta || ty.Sent != "1" || ty.Acked != "" || ty.Synced() || ty.Held != 2 {
			t.Errorf("before the answer: %+v", st)
		}
		f.ack(r)
		synctest.Wait()
		if ty := s.Status()[0].Types[0]; ty.Acked != "1" || !ty.Synced() {
			t.Errorf("after the answer: %+v", ty)
		}
		f.put("cds a=1 b=2")
		f.nack(f.want("cds b=2"), "b: no")
		synctest.Wait()
		if ty := s.Status()[0].Types[0]; ty.Synced() || !slices.Equal(ty.Refused, []string{"b"}) || ty.Reason != "b: no" {
			t.Errorf("after a refusal: %+v", ty)
		}
		f.put("cds a=1 b=3")
		f.ack(f.want("cds b=3"))
		synctest.Wait()
		if ty := s.Status()[0].Types[0]; !ty.Synced() || ty.Reason != "" {
			t.Errorf("after a cure: %+v", ty)
		}
		f.put("cds a=1")
		f.ack(f.want("cds -b"))
		f.in <- &request{typeURL: ClusterType, subscribe: []string{"a", "c"}}
		f.ack(f.want("cds a=1 -c"))
		f.put("cds a=1 c=1")
		f.ack(f.want("cds c=1"))
		synctest.Wait()
		_, types := s.Totals()
		if got, want := types[0].Causes, [causes]uint64{Named: 1, Added: 2, Changed: 2, Repeated: 1, Gone: 1, NotThere: 1}; got != want {
			t.Errorf("causes %v, want %v", got, want)
		}
		cancel()
		<-f.stopped
	})
}
