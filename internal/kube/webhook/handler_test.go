package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/kube/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// handler whose namespaces are labelled by their names, and whose objects are
// as wrong as their names say.
func handler(conf *inject.Config, err error) *Handler {
	return &Handler{
		Config: func() (*inject.Config, error) { return conf, err },
		Namespace: func(_ *http.Request, name string) (map[string]string, error) {
			switch name {
			case "shop":
				return map[string]string{"istio-injection": "enabled"}, nil
			case "gone":
				return nil, errors.New("namespace gone: not found")
			}
			return nil, nil
		},
		Check: func(o *source.Object) []model.Notice {
			n := func(s model.Severity, r model.Reason, text string) model.Notice {
				return model.Notice{Severity: s, Reason: r, Origin: o.Origin("spec.x"), Text: text}
			}
			out := []model.Notice{n(model.Info, model.Deprecated, "old"), n(model.Warning, model.Unsupported, "idle")}
			switch o.Name {
			case "bad":
				out = append(out, n(model.Error, model.Invalid, "broken"))
			case "foreign":
				out = append(out, n(model.Error, model.Unsupported, "not acted on"))
			}
			return out
		},
	}
}

// ask the handler about an object.
func ask(t *testing.T, h *Handler, path, operation, namespace, object string) *admissionv1.AdmissionResponse {
	t.Helper()
	var head struct{ Kind string }
	if err := json.Unmarshal([]byte(object), &head); err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","kind":{"kind":%q},"operation":%q,"namespace":%q,"object":%s}}`,
		head.Kind, operation, namespace, object)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader(body)))
	var out admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || out.Response == nil || out.Response.UID != "u1" || out.Kind != "AdmissionReview" {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return out.Response
}

const ordersPod = `{"kind":"Pod","apiVersion":"v1","metadata":{"generateName":"orders-7d9-","labels":{"pod-template-hash":"7d9"},"annotations":{%s},
"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"orders-7d9","uid":"x","controller":true}]},"spec":{"containers":[{"name":"app","image":"orders"}]}}`

func TestInject(t *testing.T) {
	conf := inject.Defaults()
	conf.Image = "proxy:1"
	good := handler(&conf, nil)
	for _, c := range []struct {
		name, path, namespace, operation, annotations string
		h                                             *Handler
		allowed, patched                              bool
		text                                          string
	}{
		{"a pod", "/inject", "shop", "CREATE", "", good, true, true, ""},
		{"Istio's longer address", "/inject/cluster/c1/net/n1", "shop", "CREATE", "", good, true, true, ""},
		{"nobody asked", "/inject", "other", "CREATE", "", good, true, false, ""},
		{"an update", "/inject", "shop", "UPDATE", "", good, true, false, ""},
		{"a bad annotation", "/inject", "shop", "CREATE", `"sidecar.istio.io/proxyCPU":"lots"`, good, false, false, "annotation sidecar.istio.io/proxyCPU"},
		{"a namespace that cannot be read", "/inject", "gone", "CREATE", "", good, false, false, "namespace gone"},
		{"no settings yet", "/inject", "shop", "CREATE", "", handler(nil, errors.New("not read yet")), false, false, "not read yet"},
	} {
		out := ask(t, c.h, c.path, c.operation, c.namespace, fmt.Sprintf(ordersPod, c.annotations))
		if out.Allowed != c.allowed || (out.Patch != nil) != c.patched {
			t.Errorf("%s: %+v", c.name, out)
		}
		if c.text != "" && !strings.Contains(out.Result.Message, c.text) {
			t.Errorf("%s: %s", c.name, out.Result.Message)
		}
		if c.patched && !strings.Contains(string(out.Patch), `"value":"orders"`) {
			t.Errorf("%s: the patch does not name the Deployment: %s", c.name, out.Patch)
		}
	}
	n := good.Counts()
	if n.Injected.Load() != 2 || n.Skipped.Load() != 1 || n.InjectFailed.Load() != 2 {
		t.Errorf("counted\n%s", n)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name, operation, deletion string
		allowed                   bool
		warnings                  int
		message                   string
	}{
		{"good", "CREATE", "", true, 1, ""},
		{"bad", "CREATE", "", false, 1, "VirtualService shop/bad spec.x: broken"},
		{"bad", "UPDATE", "", false, 1, "VirtualService shop/bad spec.x: broken"},
		{"bad", "DELETE", "", true, 0, ""},
		{"bad", "UPDATE", `,"deletionTimestamp":"2026-01-01T00:00:00Z"`, true, 0, ""},
		{"foreign", "CREATE", "", true, 2, ""},
	} {
		object := fmt.Sprintf(`{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":%q,"namespace":"shop"%s}}`, c.name, c.deletion)
		out := ask(t, handler(nil, nil), "/validate", c.operation, "shop", object)
		if out.Allowed != c.allowed || len(out.Warnings) != c.warnings {
			t.Errorf("%s %s: %+v", c.operation, c.name, out)
		}
		if !c.allowed && out.Result.Message != c.message {
			t.Errorf("%s %s: %s", c.operation, c.name, out.Result.Message)
		}
	}
}

func TestBadRequests(t *testing.T) {
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/inject", "", 405},
		{"POST", "/", "{}", 404},
		{"POST", "/injection", "{}", 404},
		{"POST", "/inject", "x", 400},
		{"POST", "/validate", "{}", 400},
		{"POST", "/validate", `{"apiVersion":"admission.k8s.io/v1beta1","request":{}}`, 400},
		{"POST", "/validate", strings.Repeat(" ", maxReview+1), 413},
	} {
		w := httptest.NewRecorder()
		handler(nil, nil).ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if w.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	c, err := Settings([]byte(`{"global":{"hub":"h","tag":1.5,"imagePullPolicy":"Never","multiCluster":{"clusterName":"east"},
		"proxy":{"logLevel":"debug,http:trace","excludeIPRanges":"10.0.0.0/8, 1.2.3.4/32","holdApplicationUntilProxyStarts":true,"resources":{"limits":{"cpu":"1"}}}},
		"sidecarInjectorWebhook":{"rewriteAppHTTPProbe":false,"enableNamespacesByDefault":true},"revision":"canary","revisionTags":["prod"]}`),
		[]byte("trustDomain: mesh.test\nenablePrometheusMerge: false\ndefaultConfig: {concurrency: 3, holdApplicationUntilProxyStarts: false, terminationDrainDuration: 1500ms, discoveryAddress: x:1}\n"), true)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(c.Image, c.PullPolicy, c.Cluster, c.LogLevel, c.ExcludeRanges, c.HoldUntilReady, c.Resources.Limits.Cpu(), c.RewriteProbes, c.EveryNamespace, c.Revision, c.Tags,
		c.TrustDomain, c.MergeMetrics, c.Concurrency, c.TerminationSec, c.Discovery, c.NativeSidecars)
	if want := fmt.Sprintln("h/proxy:1.5", corev1.PullNever, "east", "debug", []string{"10.0.0.0/8", "1.2.3.4/32"}, false, "1", false, true, "canary", []string{"prod"},
		"mesh.test", false, 3, 2, "x:1", true); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for _, bad := range [][2]string{{"{}", ""}, {"x", ""}, {`{"global":{"hub":"h","tag":"1"}}`, "["}, {`{"global":{"hub":"h","tag":"1"}}`, "defaultConfig: {terminationDrainDuration: soon}"}} {
		if _, err := Settings([]byte(bad[0]), []byte(bad[1]), false); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	c, err = Settings([]byte(`{"global":{"istioNamespace":"mesh","proxy":{"image":"registry.test/p:2"}},"revision":"canary"}`), nil, false)
	if err != nil || c.Image != "registry.test/p:2" || c.Discovery != "istiod-canary.mesh.svc:15012" {
		t.Error(c, err)
	}
}
