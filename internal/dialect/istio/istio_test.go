package istio

import (
	"bytes"
	meshapi "istio.io/api/mesh/v1alpha1"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tulle-mesh/tulle/internal/dialect/dialecttest"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

func TestCases(t *testing.T) { dialecttest.Run(t, "testdata", Reader{}) }

// TestFields holds the tables of fields.go against the API: each entry exists,
// and the fields that are not acted on are exactly these. A new version of the
// API makes it fail until the new fields are placed.
func TestFields(t *testing.T) {
	all := make(map[string]bool)
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		for i := range m.Fields().Len() {
			fd := m.Fields().Get(i)
			if all[fieldName(fd)] {
				continue
			}
			all[fieldName(fd)] = true
			if !supported(fd) {
				continue
			}
			if fd.IsMap() {
				fd = fd.MapValue()
			}
			if sub := fd.Message(); sub != nil && strings.HasPrefix(string(sub.FullName()), "istio.") {
				walk(sub)
			}
		}
	}
	for _, k := range kinds {
		if k.message != nil {
			walk(k.message().ProtoReflect().Descriptor())
		}
	}
	walk(new(meshapi.MeshConfig).ProtoReflect().Descriptor())
	for _, names := range []map[string]bool{acted, keys(effects), keys(replacements)} {
		for name := range names {
			if !all[name] {
				t.Errorf("the API has no field %s", name)
			}
		}
	}
	var left []string
	for name := range all {
		if !acted[name] && !strings.HasPrefix(name, "mesh.") { // most of MeshConfig is told where it is used
			left = append(left, strings.TrimPrefix(name, "networking.v1alpha3."))
		}
	}
	slices.Sort(left)
	want := []string{
		"ConnectionPoolSettings.HTTPSettings.http2KeepAlive",
		"GrpcHealthCheckConfig.service",
		"HTTPFaultInjection.Abort.http2Error",
		"HTTPFaultInjection.Delay.exponentialDelay",
		"IstioIngressListener.bind",
		"IstioIngressListener.tls",
		"L4MatchAttributes.sourceSubnet",
		"LoadBalancerSettings.zoneAwareLbSetting",
		"OutlierDetection.outlierDetectionHttpErrorCodes",
		"Port.targetPort",
		"Server.defaultEndpoint",
		"SidecarPort.targetPort",
		"TrafficPolicy.RetryBudget.budgetInterval",
		"TrafficPolicy.proxyProtocol",
		"TrafficPolicy.tunnel",
		"WorkloadGroup.ObjectMeta.annotations",
	}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("fields that are not acted on (-want +got):\n%s", diff)
	}
}

// Every kind is read alike in every served version, and no other.
func TestVersions(t *testing.T) {
	for name, k := range kinds {
		group, kind, _ := strings.Cut(name, "/")
		for _, v := range append([]string{"v2"}, k.versions...) {
			text := "apiVersion: " + group + "/" + v + "\nkind: " + kind + "\nmetadata: {name: a}\nspec: {}\n"
			objects, _ := file.Parse("f", []byte(text))
			_, notices := Reader{}.Read(claimed(objects))
			refused := slices.ContainsFunc(notices, func(n model.Notice) bool { return n.Reason == model.UnknownKind })
			if refused != (v == "v2") {
				t.Errorf("%s/%s %s: %v", group, v, kind, notices)
			}
		}
	}
}

func keys(m map[string]string) map[string]bool {
	out := make(map[string]bool)
	for k := range m {
		out[k] = true
	}
	return out
}

// A broken object of a kind harms no other, whatever is broken in it: each
// value of a good file is replaced, one at a time, by something else.
func TestOneBadObjectHarmsNoOther(t *testing.T) {
	ar, err := txtar.ParseFile("testdata/virtualservice.txtar")
	if err != nil {
		t.Fatal(err)
	}
	const good = "\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: good}\nspec: {hosts: [good], http: [{route: [{destination: {host: good}}]}]}\n"
	lines := bytes.SplitAfter(ar.Files[0].Data, []byte("\n"))
	for i, line := range lines {
		key, _, ok := bytes.Cut(line, []byte(": "))
		if !ok {
			continue
		}
		for _, bad := range []string{" 5\n", " [x]\n", " {x: y}\n", " text\n", " true\n", "\n"} {
			changed := slices.Clone(lines)
			changed[i] = []byte(string(key) + ":" + bad)
			text := append(bytes.Join(changed, nil), good...)
			objects, _ := file.Parse("f", text)
			frag, _ := Reader{}.Read(claimed(objects))
			if n := len(frag.RouteSets); n == 0 || frag.RouteSets[n-1].Name != "good" {
				t.Fatalf("line %d as %q takes the other object along", i+1, bad)
			}
		}
	}
}

func claimed(objects []*source.Object) []*source.Object {
	return slices.DeleteFunc(objects, func(o *source.Object) bool { return !Reader{}.Claims(o.APIVersion, o.Kind) })
}

func FuzzRead(f *testing.F) {
	cases, _ := filepath.Glob("testdata/*.txtar")
	for _, c := range cases {
		if ar, err := txtar.ParseFile(c); err == nil {
			for _, part := range ar.Files {
				for doc := range bytes.SplitSeq(part.Data, []byte("---\n")) {
					f.Add(doc)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, _ := file.Parse("f", data)
		objects = claimed(objects)
		frag, notices := Reader{}.Read(objects)
		for _, n := range notices {
			if n.Text == "" || n.Origin.Line < 1 {
				t.Fatalf("half a notice: %+v", n)
			}
		}
		for _, set := range frag.RouteSets {
			for _, r := range set.HTTP {
				checkRule(t, r)
			}
		}
		// A policy on labels or a namespace never goes missing.
		for _, o := range objects {
			if o.Kind != "AuthorizationPolicy" || bytes.Contains(o.JSON, []byte("targetRef")) || !strings.HasSuffix(o.APIVersion, "/v1") || o.APIVersion != "security.istio.io/v1" {
				continue
			}
			if !slices.ContainsFunc(frag.Authz, func(p *model.AuthzPolicy) bool { return p.Name == o.Name && p.Namespace == o.Namespace }) {
				t.Fatalf("AuthorizationPolicy %s is gone: %v", o.Name, notices)
			}
		}
	})
}

func checkRule(t *testing.T, r model.HTTPRule) {
	for _, m := range r.Matches {
		if m.Path != nil && m.Path.Kind == model.Regex {
			if _, err := regexp.Compile(m.Path.Value); err != nil {
				t.Fatalf("a broken expression is in effect: %v", err)
			}
		}
	}
	for _, b := range r.Backends {
		if b.Host == "" {
			t.Fatal("a backend without host is in effect")
		}
	}
}
