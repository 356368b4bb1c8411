package inject

import (
	"bytes"
	"encoding/json"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// proxyConfig is what is acted on of Istio's ProxyConfig, as the annotation
// proxy.istio.io/config gives it.
type proxyConfig struct {
	Concurrency              *int   `json:"concurrency"`
	HoldApplication          *bool  `json:"holdApplicationUntilProxyStarts"`
	DiscoveryAddress         string `json:"discoveryAddress"`
	TerminationDrainDuration string `json:"terminationDrainDuration"`
	InterceptionMode         string `json:"interceptionMode"`
	// RuntimeValues are Envoy's runtime keys: limits of connections.
	RuntimeValues map[string]string `json:"runtimeValues"`
	// ProxyMetadata is for the sidecar's environment; what it does not read is
	// left out.
	ProxyMetadata map[string]string `json:"proxyMetadata"`
}

func (r *reader) proxyConfig(name string, o *choices) {
	text, ok := r.annotations[name]
	if !ok {
		return
	}
	js, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		r.fail(name, "not YAML: %v", err)
		return
	}
	var c proxyConfig
	if err := json.NewDecoder(bytes.NewReader(js)).Decode(&c); err != nil {
		r.fail(name, "%v", err)
		return
	}
	if c.Concurrency != nil {
		if *c.Concurrency < 0 || *c.Concurrency > 1024 {
			r.fail(name, "concurrency %d is out of range", *c.Concurrency)
		}
		o.Concurrency = *c.Concurrency
	}
	if c.HoldApplication != nil {
		o.HoldUntilReady = *c.HoldApplication
	}
	if c.DiscoveryAddress != "" {
		o.Discovery = c.DiscoveryAddress
	}
	if _, _, err := ext.ParseRuntime(c.RuntimeValues); err != nil { // others the sidecar tells in a warning
		r.fail(name, "runtimeValues: %v", err)
	}
	o.runtime = c.RuntimeValues
	switch c.InterceptionMode {
	case "", "REDIRECT":
	case "NONE":
		o.capture = false
	default:
		r.fail(name, "interceptionMode %s is not supported; REDIRECT and NONE are", c.InterceptionMode)
	}
	switch v := c.ProxyMetadata["ISTIO_DELTA_XDS"]; v {
	case "", "true":
	case "false":
		o.everything = true
	default:
		r.fail(name, "ISTIO_DELTA_XDS %q is neither true nor false", v)
	}
	if d := c.TerminationDrainDuration; d != "" {
		v, err := time.ParseDuration(d)
		if err != nil || v < 0 {
			r.fail(name, "terminationDrainDuration %q is no duration as 5s", d)
			return
		}
		o.TerminationSec = int((v + time.Second - 1) / time.Second)
	}
}
