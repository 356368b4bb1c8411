package lower

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Type URLs of the resources that Lower makes.
const (
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	SecretType   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// Types is every type URL above, in the order in which a client must get them
// (make before break).
var Types = []string{ClusterType, EndpointType, ListenerType, RouteType, SecretType}

// Resource is one xDS resource.
type Resource struct {
	Type string // type URL
	Name string
	Body []byte // deterministic encoding of the message; the value of its Any. Immutable
}

// Output is a whole View as resources. Immutable once returned.
type Output struct {
	Resources map[string][]Resource   // by type URL, sorted by name
	Origins   map[string]model.Origin // what the origin ids in the resources mean
}

// Lowering makes the resources of one View, each when asked for. Not for use
// by several goroutines at once.
type Lowering struct {
	v        *model.View
	clusters map[string]*model.Cluster // by name
	// build makes one body per type URL and name.
	build   map[string]map[string]func() []byte
	hosts   *Hosts // nil: none are kept
	origins map[string]model.Origin
	notices []model.Notice
	noticed map[string]bool
}

// New prepares a Lowering of v, which must not change afterwards. Its strings
// are UTF-8, as whatever was read from JSON.
func New(v *model.View) *Lowering {
	l := prepare(v)
	l.planClusters()
	l.planOwnClusters()
	l.planListeners()
	l.planOwnListeners()
	l.planRoutes()
	l.planSecrets()
	return l
}

// Part prepares a Lowering of the clusters, outbound listeners and route tables
// that v holds, and nothing that every client has. Views that hold parts of
// another, put together, give what that one does: see Own.
func Part(v *model.View) *Lowering {
	l := prepare(v)
	l.planClusters()
	l.planListeners()
	l.planRoutes()
	return l
}

// Own prepares a Lowering of what Part leaves out: a client's inbound side, a
// gateway's listeners and secrets, and what every client has.
func Own(v *model.View) *Lowering {
	l := prepare(v)
	l.planOwnClusters()
	l.planOwnListeners()
	l.planSecrets()
	return l
}

func prepare(v *model.View) *Lowering {
	l := &Lowering{
		v:        v,
		clusters: map[string]*model.Cluster{},
		build:    map[string]map[string]func() []byte{},
		origins:  map[string]model.Origin{},
		noticed:  map[string]bool{},
	}
	for _, c := range v.Refers {
		l.clusters[c.Name] = c
	}
	for _, t := range Types {
		l.build[t] = map[string]func() []byte{}
	}
	return l
}

// plan registers how a resource is made. The first of a name wins.
func (l *Lowering) plan(typeURL, name string, f func() proto.Message) {
	l.planBytes(typeURL, name, func() []byte { return encode(f()) })
}

func (l *Lowering) planBytes(typeURL, name string, f func() []byte) {
	if _, dup := l.build[typeURL][name]; !dup {
		l.build[typeURL][name] = f
	}
}

// Names lists the resources of a type, sorted.
func (l *Lowering) Names(typeURL string) []string {
	return slices.Sorted(maps.Keys(l.build[typeURL]))
}

// Resource makes one resource; false when the View has none of that name.
func (l *Lowering) Resource(typeURL, name string) (Resource, bool) {
	f, ok := l.build[typeURL][name]
	if !ok {
		return Resource{}, false
	}
	return Resource{Type: typeURL, Name: name, Body: f()}, true
}

// Origins is what the origin ids in the resources made so far mean.
func (l *Lowering) Origins() map[string]model.Origin { return maps.Clone(l.origins) }

// Notices about the resources made so far, in the order met.
func (l *Lowering) Notices() []model.Notice { return slices.Clone(l.notices) }

// Lower makes every resource of v.
func Lower(v *model.View) (*Output, []model.Notice) {
	return New(v).All()
}

// All makes every resource of the Lowering.
func (l *Lowering) All() (*Output, []model.Notice) {
	out := &Output{Resources: map[string][]Resource{}}
	for _, t := range Types {
		for _, name := range l.Names(t) {
			r, _ := l.Resource(t, name)
			out.Resources[t] = append(out.Resources[t], r)
		}
	}
	out.Origins = l.origins
	return out, l.notices
}

// Find returns a resource of o.
func (o *Output) Find(typeURL, name string) (Resource, bool) {
	i, ok := slices.BinarySearchFunc(o.Resources[typeURL], name,
		func(r Resource, n string) int { return cmp.Compare(r.Name, n) })
	if !ok {
		return Resource{}, false
	}
	return o.Resources[typeURL][i], true
}

// notice records a finding once.
func (l *Lowering) notice(sev model.Severity, reason model.Reason, o model.Origin, text string) {
	key := o.ID() + " " + text
	if l.noticed[key] {
		return
	}
	l.noticed[key] = true
	l.notices = append(l.notices, model.Notice{Severity: sev, Reason: reason, Origin: o, Text: text})
}

// origin records o in the side table; empty for the zero Origin.
func (l *Lowering) origin(o model.Origin) string {
	if o.Kind == "" {
		return ""
	}
	id := o.ID()
	l.origins[id] = o
	return id
}

// metadata of a listener, chain or route: which object caused it.
func (l *Lowering) metadata(o model.Origin) *corepb.Metadata {
	id := l.origin(o)
	if id == "" {
		return nil
	}
	return istioMetadata(map[string]*structpb.Value{"config": structpb.NewStringValue(id)})
}

func istioMetadata(fields map[string]*structpb.Value) *corepb.Metadata {
	return &corepb.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": {Fields: fields}}}
}

// encode is deterministic: equal messages give equal bytes. Messages are made
// here from checked parts, so that it cannot fail except by our own bug.
func encode(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic("BUG: encode xds message: " + err.Error())
	}
	return b
}

func pack(m proto.Message) *anypb.Any {
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: encode(m)}
}

func u32(n uint32) *wrapperspb.UInt32Value     { return wrapperspb.UInt32(n) }
func u64(n uint64) *wrapperspb.UInt64Value     { return wrapperspb.UInt64(n) }
func yes() *wrapperspb.BoolValue               { return wrapperspb.Bool(true) }
func no() *wrapperspb.BoolValue                { return wrapperspb.Bool(false) }
func dur(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// ads is the config source of every resource that is named by another.
func ads() *corepb.ConfigSource {
	return &corepb.ConfigSource{
		ConfigSourceSpecifier: &corepb.ConfigSource_Ads{Ads: &corepb.AggregatedConfigSource{}},
		ResourceApiVersion:    corepb.ApiVersion_V3,
	}
}
