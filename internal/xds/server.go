package xds

import (
	"cmp"
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// ErrDenied is returned by Config.Open for a caller that may not be who its
// node says. The stream ends with PermissionDenied and the error's text.
var ErrDenied = errors.New("not allowed")

// ErrUnknown is returned by Config.Open for a caller whose workload the control
// plane does not know (yet). The stream ends with Unavailable: try again.
var ErrUnknown = errors.New("unknown workload")

// Node is what a client says about itself. It is no proof of anything and may
// only narrow what the caller gets.
type Node struct {
	ID        string
	Cluster   string
	UserAgent string
	Version   string
	Delta     bool              // speaks the delta protocol
	Features  []string          // client_features
	Metadata  map[string]string // the metadata fields that are strings
}

// Feed is the resources of one client, from Open until Close.
type Feed struct {
	// Key is the client's name in status and limits, as "shop/orders-1".
	Key string
	// Get is the newest Set, and a channel that is closed when there is a newer
	// one. It is called by one goroutine at a time.
	Get func() (*Set, <-chan struct{})
	// Rejected is told what the client refused; the stream waits for it. May be nil.
	Rejected func(Rejection)
	// Ask is told of the names of DemandTypes that a client which asks for what
	// it uses wants from now on, and of those that it wants no more; nil: this
	// client has all that it may have unasked. When it returns, Get gives a Set
	// with the answers: under the name, the resource that it leads to, which may
	// have another; or nothing. One goroutine at a time.
	Ask func(typeURL string, want, leave []string)
	// Gone is closed when the client's record is no more, which ends the stream.
	// nil: never.
	Gone <-chan struct{}
	// Close is called once when the stream has ended. May be nil.
	Close func()
}

// Config of a Server. Authenticate and Open must be set.
type Config struct {
	// Authenticate says who opened the stream, or a gRPC status error.
	Authenticate func(context.Context) (*identity.Caller, error)
	// Open finds the Feed of an authenticated caller. The caller is to be
	// believed, the node is not. Errors that wrap ErrDenied or ErrUnknown are
	// told to the client, others only as an internal error.
	Open func(context.Context, *identity.Caller, *Node) (*Feed, error)
	// Name of this control plane in responses.
	Name string

	// Panicked is told of a panic while a stream was served, with its stack. May
	// be nil.
	Panicked func(value any, stack []byte)

	// Encoded: the gRPC server was made with a Codec.
	Encoded bool

	// StreamsPerKey bounds the streams of one Feed.Key at a time; 8.
	StreamsPerKey int
	// NamesPerType bounds the subscriptions of a stream per type; 50,000.
	NamesPerType int
	// Asks bounds the names that a client on demand asks for at a time; 10,000.
	Asks int
	// Types bounds the types that a stream subscribes to; 16.
	Types int
}

// MaxMessage is the size in bytes of the largest request that a gRPC server in
// front of this room should take.
const MaxMessage = 8 << 20

// maxName bounds the length of a resource name.
const maxName = 1024

// Timing of streams.
const (
	hold        = 100 * time.Millisecond // between two adoptions of a newer Set,
	longestHold = 500 * time.Millisecond // and more when what was sent again was large:
	againRate   = 512 << 10              // bytes a second
	patience    = 5 * time.Second        // for an answer, before the next response of the type
	digest      = 2 * time.Second        // for a type's needs to be digested
	firstWithin = 15 * time.Second       // for the first request of a stream
)

// Server is the aggregated discovery service. Safe for concurrent use.
type Server struct {
	discoverypb.UnimplementedAggregatedDiscoveryServiceServer
	c Config

	mu      sync.Mutex
	streams map[*stream]struct{}
	perKey  map[string]*account
	ended   map[string]*TypeStatus // by type URL: what streams that have ended sent
}

// New makes a Server; Register puts it on a gRPC server.
func New(c Config) *Server {
	c.StreamsPerKey = cmp.Or(c.StreamsPerKey, 8)
	c.NamesPerType = cmp.Or(c.NamesPerType, 50_000)
	c.Types = cmp.Or(c.Types, 16)
	c.Asks = cmp.Or(c.Asks, 10_000)
	return &Server{c: c, streams: map[*stream]struct{}{}, perKey: map[string]*account{}, ended: map[string]*TypeStatus{}}
}

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoverypb.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// StreamAggregatedResources serves one state-of-the-world stream.
func (s *Server) StreamAggregatedResources(g grpc.BidiStreamingServer[discoverypb.DiscoveryRequest, discoverypb.DiscoveryResponse]) error {
	return s.serve(g.Context(), &sotwWire{g, s.c.Name, s.c.Encoded})
}

// DeltaAggregatedResources serves one delta stream.
func (s *Server) DeltaAggregatedResources(g grpc.BidiStreamingServer[discoverypb.DeltaDiscoveryRequest, discoverypb.DeltaDiscoveryResponse]) error {
	return s.serve(g.Context(), &deltaWire{g, s.c.Name, s.c.Encoded})
}

// serve runs one stream to its end. A panic is our bug and ends that stream
// alone.
func (s *Server) serve(ctx context.Context, w wire) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if s.c.Panicked != nil {
				s.c.Panicked(r, debug.Stack())
			}
			err = status.Error(codes.Internal, "the control plane made a mistake on this stream")
		}
	}()
	caller, err := s.c.Authenticate(ctx)
	if err != nil {
		return err
	}
	// The context ends with this function, which ends the goroutines below
	// when the stream is ended by us.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st := newStream(s.c, caller, w)
	go st.receive(ctx)
	first, err := st.first(ctx)
	if err != nil {
		return err
	}
	feed, err := s.open(ctx, caller, first.node, w.delta())
	if err != nil {
		return err
	}
	st.feed, st.agent = feed, agent(first.node)
	if feed.Close != nil {
		defer feed.Close()
	}
	if err := s.enter(st); err != nil {
		return err
	}
	defer s.leave(st)
	return st.run(ctx, first)
}

func (s *Server) open(ctx context.Context, caller *identity.Caller, node *Node, delta bool) (*Feed, error) {
	if node == nil {
		node = &Node{}
	}
	node.Delta = delta
	feed, err := s.c.Open(ctx, caller, node)
	switch {
	case errors.Is(err, ErrDenied):
		return nil, status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, ErrUnknown):
		return nil, status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return nil, status.Error(codes.Internal, "no configuration for this client")
	}
	return feed, nil
}

func (s *Server) enter(st *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(st.feed.Key)
	if a.streams >= s.c.StreamsPerKey {
		return status.Errorf(codes.ResourceExhausted, "%s has %d streams already", st.feed.Key, s.c.StreamsPerKey)
	}
	a.streams++
	st.charge = func(n int) time.Time { return s.charge(a, n) }
	s.streams[st] = struct{}{}
	return nil
}

func (s *Server) leave(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.perKey[st.feed.Key]
	if a.streams--; a.streams == 0 && a.owes(time.Now()) == 0 {
		delete(s.perKey, st.feed.Key)
	}
	delete(s.streams, st)
	for _, t := range st.status().Types {
		t.Held, t.Names, t.Absent = 0, 0, 0
		s.total(s.ended, &t)
	}
}

// maxTotals bounds the types that are counted by themselves: clients choose
// what they ask for.
const maxTotals = 32

func (s *Server) total(by map[string]*TypeStatus, t *TypeStatus) {
	url := t.Type
	if by[url] == nil && len(by) >= maxTotals {
		url = "other"
	}
	if by[url] == nil {
		by[url] = &TypeStatus{Type: url}
	}
	by[url].add(t)
}

// Totals are the streams that are open, and by type, sorted, what all streams
// since the start were sent; Held and Names are those of open streams.
func (s *Server) Totals() (streams int, types []TypeStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := map[string]*TypeStatus{}
	for _, t := range s.ended {
		s.total(by, t)
	}
	for st := range s.streams {
		for _, t := range st.status().Types {
			s.total(by, &t)
		}
	}
	for _, t := range by {
		types = append(types, *t)
	}
	slices.SortFunc(types, func(a, b TypeStatus) int { return cmp.Compare(a.Type, b.Type) })
	return len(s.streams), types
}

// Status is where one stream stands.
type Status struct {
	Key       string
	UserAgent string
	Proof     string
	Since     time.Time
	Delta     bool
	Demand    bool         // asks for what it uses
	Types     []TypeStatus // sorted by type URL
}

// TypeStatus is where one type of a stream stands.
type TypeStatus struct {
	Type     string // type URL
	Names    int    // subscribed by name
	Wildcard bool
	Held     int       // resources that the client holds
	Absent   int       // names that the client was told lead nowhere
	Sent     string    // version of the Set behind the newest response; empty: never sent
	Acked    string    // version of the Set behind the newest answered response
	SentAt   time.Time // of the newest response
	AckedAt  time.Time // of the newest answer that accepted
	Refused  []string  // names of resources that the client holds an older version of, sorted
	Reason   string    // of the newest refusal

	Responses uint64 // sent
	Resources uint64 // in them
	Removed   uint64 // names told to be gone
	Bytes     uint64 // of the bodies in them
	Refusals  uint64 // responses that were refused
	Asked     uint64 // names that clients on demand asked for

	Causes [causes]uint64 // why: resources and removals, by Cause
}

// Cause is why a client was told something of a resource.
type Cause int

// The causes.
const (
	Named    Cause = iota // it asked for it by name
	Added                 // it came to be, or something that the client asked for leads to it
	Changed               // it is another than the client was sent before
	Repeated              // the client asked again, refused a response as a whole, or warms what uses it
	Gone                  // it is no more, or nothing leads to it any more
	NotThere              // there is no such, and the client asked
	causes   = iota
)

// Causes are all of them.
func Causes() (all []Cause) {
	for c := range Cause(causes) {
		all = append(all, c)
	}
	return all
}

// String is the word that metrics have.
func (c Cause) String() string {
	return [...]string{"named", "added", "changed", "repeated", "gone", "not there"}[c]
}

// add adds the counts of o.
func (t *TypeStatus) add(o *TypeStatus) {
	t.Responses += o.Responses
	t.Resources += o.Resources
	t.Removed += o.Removed
	t.Bytes += o.Bytes
	t.Refusals += o.Refusals
	t.Asked += o.Asked
	for i, n := range o.Causes {
		t.Causes[i] += n
	}
	t.Absent += o.Absent
	t.Held += o.Held
	t.Names += o.Names
}

// Synced reports whether the client accepted everything that it was sent.
func (t TypeStatus) Synced() bool { return t.Sent == t.Acked && len(t.Refused) == 0 }

// Status of all streams, by key and age.
func (s *Server) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Status
	for st := range s.streams {
		out = append(out, st.status())
	}
	slices.SortFunc(out, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), a.Since.Compare(b.Since))
	})
	return out
}
