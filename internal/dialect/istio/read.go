package istio

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Reader reads Istio's API. The zero value is ready.
type Reader struct{}

var _ dialect.Joiner = Reader{}

// Name implements dialect.Reader.
func (Reader) Name() string { return "istio" }

// Claims implements dialect.Reader: every group of istio.io, so that what is
// not understood is told in Istio's words, and ConfigMaps, of which one holds
// the mesh's settings.
func (Reader) Claims(apiVersion, kind string) bool {
	return strings.HasSuffix(dialect.Group(apiVersion), ".istio.io") || apiVersion == "v1" && kind == "ConfigMap"
}

// Join implements dialect.Joiner: no object's meaning depends on another's here.
func (Reader) Join(o *source.Object) dialect.Join { return dialect.Join{Alone: o} }

// Read implements dialect.Reader.
func (Reader) Read(objects []*source.Object) (model.Fragment, []model.Notice) {
	var out model.Fragment
	var notices []model.Notice
	for _, o := range objects {
		r := &dialect.Report{Object: o}
		readObject(r, &out)
		notices = append(notices, r.Notices...)
	}
	return out, notices
}

// kind is how one kind is read. The message types of all versions are one.
type kind struct {
	versions []string
	message  func() proto.Message
	read     func(*reading, proto.Message, *model.Fragment)
	closed   bool   // a bad object is still read, and fails closed
	ignored  string // why the kind is not read
}

var (
	networkingVersions = []string{"v1", "v1beta1", "v1alpha3"}
	securityVersions   = []string{"v1", "v1beta1"}
	telemetryVersions  = []string{"v1", "v1alpha1"}
)

var kinds = map[string]kind{
	"networking.istio.io/VirtualService":  {versions: networkingVersions, message: func() proto.Message { return new(networking.VirtualService) }, read: readVirtualService},
	"networking.istio.io/DestinationRule": {versions: networkingVersions, message: func() proto.Message { return new(networking.DestinationRule) }, read: readDestinationRule},
	"networking.istio.io/Gateway":         {versions: networkingVersions, message: func() proto.Message { return new(networking.Gateway) }, read: readGateway},
	"networking.istio.io/ServiceEntry":    {versions: networkingVersions, message: func() proto.Message { return new(networking.ServiceEntry) }, read: readServiceEntry},
	"networking.istio.io/WorkloadEntry":   {versions: networkingVersions, message: func() proto.Message { return new(networking.WorkloadEntry) }, read: readWorkloadEntry},
	"networking.istio.io/WorkloadGroup":   {versions: networkingVersions, message: func() proto.Message { return new(networking.WorkloadGroup) }, read: readWorkloadGroup},
	"networking.istio.io/Sidecar":         {versions: networkingVersions, message: func() proto.Message { return new(networking.Sidecar) }, read: readSidecar},

	"security.istio.io/PeerAuthentication":  {versions: securityVersions, message: func() proto.Message { return new(security.PeerAuthentication) }, read: readPeerAuthentication, closed: true},
	"security.istio.io/AuthorizationPolicy": {versions: securityVersions, message: func() proto.Message { return new(security.AuthorizationPolicy) }, read: readAuthorizationPolicy, closed: true},

	"security.istio.io/RequestAuthentication": {versions: securityVersions, ignored: "tokens are not checked yet: requests without or with a wrong token pass as if this object did not exist"},
	"networking.istio.io/EnvoyFilter":         {versions: []string{"v1alpha3"}, ignored: "EnvoyFilter is not acted on: its patches are for Envoy's own configuration"},
	"networking.istio.io/ProxyConfig":         {versions: []string{"v1beta1"}, ignored: "ProxyConfig is not acted on yet"},
	"telemetry.istio.io/Telemetry":            {versions: telemetryVersions, ignored: "Telemetry is not acted on yet: the mesh-wide access log and metrics stay as they are"},
	"extensions.istio.io/WasmPlugin":          {versions: []string{"v1alpha1"}, ignored: "WasmPlugin is not acted on: Tulle does not run WebAssembly"},
	"extensions.istio.io/TrafficExtension":    {versions: []string{"v1alpha1"}, ignored: "TrafficExtension is not acted on: Tulle runs neither WebAssembly nor Lua"},
	"install.istio.io/IstioOperator":          {versions: []string{"v1alpha1"}},
}

// reading is one object on its way into the model.
type reading struct {
	*dialect.Report
	damage  map[string]bool // paths that are unknown or have a wrong type, and all above them
	outside bool            // one of them is not within spec.rules
	partial int             // Error notices that put only a part of the object out of effect
}

// part says that a value is invalid and takes only the part around it out of
// effect.
func (r *reading) part(reason model.Reason, path, format string, args ...any) {
	r.Add(model.Error, reason, path, format, args...)
	r.partial++
}

// fatal reports whether the object as a whole is not in effect.
func (r *reading) fatal() bool { return r.Errors() > r.partial }

// hurt remembers that the value at path was not understood.
func (r *reading) hurt(path string) {
	if r.damage == nil {
		r.damage = make(map[string]bool)
	}
	r.outside = r.outside || !strings.HasPrefix(path, "spec.rules[")
	for path != "" && !r.damage[path] {
		r.damage[path] = true
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// damaged reports whether something at or below the path was not understood.
func (r *reading) damaged(path string) bool { return r.damage[path] }

// at is the origin of a field.
func (r *reading) at(path string) model.Origin { return r.Object.Origin(path) }

// nearKind is the kind, with its API group where that is another one, that a
// name which nothing reads looks like.
func nearKind(o *source.Object) string {
	group := dialect.Group(o.APIVersion)
	var names []string
	for k := range kinds {
		g, name, _ := strings.Cut(k, "/")
		if name == o.Kind {
			return g + " " + name
		}
		if g == group {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return dialect.Nearest(o.Kind, names)
}

// readObject adds what one object says to the fragment, or nothing when it is
// not in effect.
func readObject(rep *dialect.Report, out *model.Fragment) {
	if readSettings(rep, out) {
		return
	}
	o := rep.Object
	k, ok := kinds[dialect.Group(o.APIVersion)+"/"+o.Kind]
	if !ok {
		text := fmt.Sprintf("nothing reads %s %s: ignored", o.APIVersion, o.Kind)
		if near := nearKind(o); near != "" {
			text += "; is " + near + " meant?"
		}
		rep.Add(model.Warning, model.UnknownKind, "", "%s", text)
		return
	}
	r := &reading{Report: rep}
	if !slices.Contains(k.versions, dialect.Version(o.APIVersion)) {
		rep.Add(model.Error, model.UnknownKind, "apiVersion", "%s %s is not a version that is served; use %s",
			o.APIVersion, o.Kind, dialect.Group(o.APIVersion)+"/"+k.versions[0])
		if !k.closed {
			return
		}
		r.hurt("apiVersion")
	}
	if k.ignored != "" {
		rep.Add(model.Warning, model.Unsupported, "", "%s", k.ignored)
		return
	}
	m := k.message()
	if !r.decode(m) && !k.closed {
		return
	}
	var part model.Fragment
	k.read(r, m, &part)
	if r.fatal() && !k.closed {
		return
	}
	out.Merge(part)
}
