package webhook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/kube/inject"
)

// Where an installation says how pods are injected, as Istio's does.
const (
	InjectorMap = "istio-sidecar-injector" // ConfigMap; with a revision InjectorMap-REVISION
	ValuesKey   = "values"                 // in it: Istio's chart values
	MeshMap     = "istio"                  // ConfigMap; with a revision MeshMap-REVISION
	MeshKey     = "mesh"                   // in it: Istio's MeshConfig
)

// Values is what is acted on of Istio's chart values, by Istio's names.
type Values struct {
	Global struct {
		Hub             string            `json:"hub"`
		Tag             any               `json:"tag"` // users write numbers
		ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy"`
		Namespace       string            `json:"istioNamespace"`
		MultiCluster    struct {
			ClusterName string `json:"clusterName"`
		} `json:"multiCluster"`
		Proxy struct {
			Image           string                      `json:"image"`
			LogLevel        string                      `json:"logLevel"`
			Resources       corev1.ResourceRequirements `json:"resources"`
			ExcludeIPRanges string                      `json:"excludeIPRanges"`
			Hold            *bool                       `json:"holdApplicationUntilProxyStarts"`
		} `json:"proxy"`
	} `json:"global"`
	Injector struct {
		EveryNamespace bool                   `json:"enableNamespacesByDefault"`
		RewriteProbes  *bool                  `json:"rewriteAppHTTPProbe"`
		Never          []metav1.LabelSelector `json:"neverInjectSelector"`
		Always         []metav1.LabelSelector `json:"alwaysInjectSelector"`
	} `json:"sidecarInjectorWebhook"`
	Revision     string   `json:"revision"`
	RevisionTags []string `json:"revisionTags"`
}

// mesh is what is acted on of MeshConfig when pods are injected.
type mesh struct {
	TrustDomain     string `json:"trustDomain"`
	PrometheusMerge *bool  `json:"enablePrometheusMerge"`
	DefaultConfig   struct {
		Concurrency      *int   `json:"concurrency"`
		Hold             *bool  `json:"holdApplicationUntilProxyStarts"`
		DiscoveryAddress string `json:"discoveryAddress"`
		TerminationDrain string `json:"terminationDrainDuration"`
	} `json:"defaultConfig"`
}

// Settings makes the settings of injection from Istio's values (JSON or YAML)
// and MeshConfig (YAML). native says that every kubelet runs native sidecars.
func Settings(values, meshConfig []byte, native bool) (*inject.Config, error) {
	var v Values
	if err := read(values, &v); err != nil {
		return nil, fmt.Errorf("%s: %w", ValuesKey, err)
	}
	var m mesh
	if err := read(meshConfig, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", MeshKey, err)
	}
	c := inject.Defaults()
	c.NativeSidecars = native
	p := &v.Global.Proxy
	if c.Image = image(&v); c.Image == "" {
		return nil, errors.New("values: neither global.proxy.image nor global.hub and global.tag say which image of tulle-proxy runs")
	}
	set(&c.PullPolicy, v.Global.ImagePullPolicy)
	set(&c.Cluster, v.Global.MultiCluster.ClusterName)
	level, _, _ := strings.Cut(p.LogLevel, ",") // Istio's may go on with components
	set(&c.LogLevel, level)
	if len(p.Resources.Requests)+len(p.Resources.Limits) > 0 {
		c.Resources = p.Resources
	}
	for r := range strings.SplitSeq(p.ExcludeIPRanges, ",") {
		if r = strings.TrimSpace(r); r != "" {
			c.ExcludeRanges = append(c.ExcludeRanges, r)
		}
	}
	given(&c.HoldUntilReady, p.Hold)
	c.EveryNamespace, c.NeverInject, c.AlwaysInject = v.Injector.EveryNamespace, v.Injector.Never, v.Injector.Always
	given(&c.RewriteProbes, v.Injector.RewriteProbes)
	c.Revision, c.Tags = v.Revision, v.RevisionTags
	c.Discovery = discovery(v.Global.Namespace, v.Revision)
	set(&c.TrustDomain, m.TrustDomain)
	given(&c.MergeMetrics, m.PrometheusMerge)
	d := &m.DefaultConfig
	given(&c.Concurrency, d.Concurrency)
	given(&c.HoldUntilReady, d.Hold)
	set(&c.Discovery, d.DiscoveryAddress)
	if d.TerminationDrain != "" {
		t, err := time.ParseDuration(d.TerminationDrain)
		if err != nil || t < 0 {
			return nil, fmt.Errorf("%s: defaultConfig.terminationDrainDuration %q is no duration as 5s", MeshKey, d.TerminationDrain)
		}
		c.TerminationSec = int((t + time.Second - 1) / time.Second)
	}
	return &c, nil
}

// discovery is the address of the control plane's own Service.
func discovery(namespace, revision string) string {
	name := "istiod"
	if revision != "" && revision != "default" {
		name += "-" + revision
	}
	return name + "." + cmp.Or(namespace, "istio-system") + ".svc:15012"
}

// image of the proxy: a name with a slash stands for itself.
func image(v *Values) string {
	name := v.Global.Proxy.Image
	if strings.Contains(name, "/") {
		return name
	}
	tag := ""
	if v.Global.Tag != nil {
		tag = fmt.Sprint(v.Global.Tag)
	}
	if v.Global.Hub == "" || tag == "" {
		return ""
	}
	if name == "" || name == "auto" {
		name = "proxy"
	}
	return v.Global.Hub + "/" + name + ":" + tag
}

func read(text []byte, into any) error {
	js, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	return json.Unmarshal(js, into)
}

func set[T ~string](dst *T, v T) {
	if v != "" {
		*dst = v
	}
}

func given[T any](dst *T, v *T) {
	if v != nil {
		*dst = *v
	}
}
