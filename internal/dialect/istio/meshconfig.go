package istio

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	meshapi "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
)

// readMeshMap reads MeshConfig from the ConfigMap in which Istio keeps it:
// istio, key mesh. Those of other revisions (istio-REVISION) and all other
// ConfigMaps say nothing here.
func readMeshMap(rep *dialect.Report, out *model.Fragment) {
	o := rep.Object
	if o.Name != "istio" {
		return
	}
	var m struct {
		Data map[string]string `json:"data"`
	}
	if json.Unmarshal(o.JSON, &m) != nil || m.Data["mesh"] == "" {
		return
	}
	r := &reading{Report: rep}
	text, err := yaml.YAMLToJSONStrict([]byte(m.Data["mesh"]))
	if err != nil {
		r.Invalid("data.mesh", "not YAML: %v", err)
		return
	}
	r.meshConfig("data.mesh", text, out)
}

// readOperator reads the mesh's settings from an IstioOperator; what it says of
// the installation is not read with the configuration.
func readOperator(rep *dialect.Report, out *model.Fragment) {
	var m struct {
		Spec struct {
			MeshConfig json.RawMessage `json:"meshConfig"`
		} `json:"spec"`
	}
	r := &reading{Report: rep}
	r.Add(model.Info, model.Unsupported, "", "an IstioOperator describes an installation: of it only spec.meshConfig is read here")
	if json.Unmarshal(rep.Object.JSON, &m) == nil && len(m.Spec.MeshConfig) > 0 {
		r.meshConfig("spec.meshConfig", m.Spec.MeshConfig, out)
	}
}

// meshConfig reads one MeshConfig. What is wrong in it is left out; the rest
// acts.
func (r *reading) meshConfig(path string, text []byte, out *model.Fragment) {
	var top any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&top); err != nil {
		r.Invalid(path, "not an object: %v", err)
		return
	}
	if top == nil { // empty, or comments only: what a minimal installation leaves
		return
	}
	var m meshapi.MeshConfig
	w := walker{r: r}
	clean, ok := w.message(m.ProtoReflect().Descriptor(), top, path)
	if !ok {
		return
	}
	good, err := json.Marshal(clean)
	if err == nil {
		err = protojson.Unmarshal(good, &m)
	}
	if err != nil {
		r.Invalid(path, "does not fit the API: %v", err)
		return
	}
	given, _ := clean.(map[string]any)
	out.Settings = append(out.Settings, r.meshSettings(path, &m, given))
}

func (r *reading) meshSettings(path string, m *meshapi.MeshConfig, given map[string]any) *model.MeshSettings {
	s := &model.MeshSettings{
		Name: r.Object.Name, Namespace: r.Object.Namespace,
		RootNamespace:       m.RootNamespace,
		ConnectTimeout:      r.duration(path+".connectTimeout", m.ConnectTimeout, time.Millisecond),
		LogFormat:           m.AccessLogFormat,
		ServiceExportTo:     r.exportTo(path+".defaultServiceExportTo", m.DefaultServiceExportTo),
		RouteExportTo:       r.exportTo(path+".defaultVirtualServiceExportTo", m.DefaultVirtualServiceExportTo),
		DestinationExportTo: r.exportTo(path+".defaultDestinationRuleExportTo", m.DefaultDestinationRuleExportTo),
		Retry:               r.retry(path+".defaultHttpRetryPolicy", m.DefaultHttpRetryPolicy),
		Locality:            r.localityLB(path+".localityLbSetting", m.LocalityLbSetting),
		Origin:              r.at(path),
	}
	if p := m.OutboundTrafficPolicy; p != nil {
		any := p.Mode != meshapi.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY
		s.AllowAny = &any
		if p.Mode == meshapi.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY_DYNAMIC_DNS {
			r.Unsupported(path+".outboundTrafficPolicy.mode", "acts as ALLOW_ANY: hosts are not resolved anew by the proxy")
		}
	}
	if v := m.EnableAutoMtls; v != nil {
		s.AutoMTLS = &v.Value
	}
	if k := m.TcpKeepalive; k != nil {
		s.Keepalive = r.pool(path, &networking.ConnectionPoolSettings{Tcp: &networking.ConnectionPoolSettings_TCPSettings{TcpKeepalive: k}}).Keepalive
	}
	if _, ok := given["h2UpgradePolicy"]; ok {
		up := m.H2UpgradePolicy == meshapi.MeshConfig_UPGRADE
		s.UpgradeHTTP2 = &up
	}
	if _, ok := given["accessLogFile"]; ok {
		on := m.AccessLogFile != ""
		s.Log = &on
		if on && m.AccessLogFile != "/dev/stdout" {
			r.Doubtful(path+".accessLogFile", "proxies log to their standard output, not to %s", m.AccessLogFile)
		}
	}
	if _, ok := given["accessLogEncoding"]; ok {
		js := m.AccessLogEncoding == meshapi.MeshConfig_JSON
		s.LogJSON = &js
	}
	if p := m.PathNormalization; p != nil {
		s.Paths = pathForms[p.Normalization]
	}
	if p := m.DefaultTrafficPolicy; p != nil {
		s.Pool = r.pool(path+".defaultTrafficPolicy.connectionPool", p.ConnectionPool)
		s.Outlier = r.outlier(path+".defaultTrafficPolicy.outlierDetection", p.OutlierDetection)
	}
	if r.damaged(path + ".outboundTrafficPolicy") {
		closed := false // what was asked for is not known
		s.AllowAny = &closed
	}
	return s
}

var pathForms = map[meshapi.MeshConfig_ProxyPathNormalization_NormalizationType]model.PathForm{
	meshapi.MeshConfig_ProxyPathNormalization_NONE:                     model.PathNone,
	meshapi.MeshConfig_ProxyPathNormalization_MERGE_SLASHES:            model.PathMergeSlashes,
	meshapi.MeshConfig_ProxyPathNormalization_DECODE_AND_MERGE_SLASHES: model.PathDecodeAndMerge,
}

// settingsElsewhere are kinds that say something of the mesh as a whole, read
// by name and not through the table of kinds.
var settingsElsewhere = []string{"v1/ConfigMap", "install.istio.io/v1alpha1/IstioOperator"}

// readSettings reports whether the object is of such a kind.
func readSettings(rep *dialect.Report, out *model.Fragment) bool {
	o := rep.Object
	if !slices.Contains(settingsElsewhere, o.APIVersion+"/"+o.Kind) {
		return false
	}
	if o.Kind == "ConfigMap" {
		readMeshMap(rep, out)
	} else {
		readOperator(rep, out)
	}
	return true
}
