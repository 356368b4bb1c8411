package kube

import (
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// injected is the environment that the injector writes.
func injected(change map[string]string) func(string) string {
	env := map[string]string{
		"POD_NAME": "web-7d9f-x2x", "POD_NAMESPACE": "shop", "INSTANCE_IP": "10.244.1.7", "INSTANCE_IPS": "10.244.1.7,fd44::7",
		"SERVICE_ACCOUNT": "web", "ISTIO_META_WORKLOAD_NAME": "web", "ISTIO_META_CLUSTER_ID": "Kubernetes",
		"ISTIO_META_INTERCEPTION_MODE": "REDIRECT", "ISTIO_META_DNS_CAPTURE": "true", "ISTIO_META_NODE_NAME": "node1", "ISTIO_CPU_LIMIT": "2",
		"PROXY_CONFIG": `{"discoveryAddress":"istiod.istio-system.svc:15012","logLevel":"warning"}`,
	}
	for k, v := range change {
		env[k] = v
	}
	return func(k string) string { return env[k] }
}

func TestEnvironment(t *testing.T) {
	p, err := FromEnvironment(false, injected(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := &Pod{Name: "web-7d9f-x2x", Namespace: "shop", Account: "web", Workload: "web", Cluster: "Kubernetes", Domain: "cluster.local",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd44::7")},
		Discovery: "istiod.istio-system.svc:15012", Concurrency: 2, LogLevel: slog.LevelWarn, Drain: 5 * time.Second, DNS: true, Capture: true, OnDemand: true,
		Metadata: map[string]string{"NAME": "web-7d9f-x2x", "NAMESPACE": "shop", "SERVICE_ACCOUNT": "web", "CLUSTER_ID": "Kubernetes", "WORKLOAD_NAME": "web",
			"INSTANCE_IPS": "10.244.1.7,fd44::7", "INTERCEPTION_MODE": "REDIRECT", "DNS_CAPTURE": "true", "NODE_NAME": "node1"}}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
	if got, want := p.ID(), "sidecar~10.244.1.7~web-7d9f-x2x.shop~shop.svc.cluster.local"; got != want {
		t.Errorf("id %s, want %s", got, want)
	}
	g, err := FromEnvironment(true, injected(nil))
	if err != nil || g.Capture || g.DNS || !strings.HasPrefix(g.ID(), "router~") {
		t.Errorf("gateway: %+v, %v", g, err)
	}
}

func TestEnvironmentChoices(t *testing.T) {
	for name, x := range map[string]struct {
		change map[string]string
		holds  func(*Pod) bool
	}{
		"one address":     {map[string]string{"INSTANCE_IPS": ""}, func(p *Pod) bool { return len(p.Addresses) == 1 }},
		"no capture":      {map[string]string{"ISTIO_META_INTERCEPTION_MODE": "NONE"}, func(p *Pod) bool { return !p.Capture && !p.OnDemand }},
		"on demand":       {nil, func(p *Pod) bool { return p.OnDemand }},
		"everything":      {map[string]string{"ISTIO_DELTA_XDS": "false"}, func(p *Pod) bool { return !p.OnDemand }},
		"no dns":          {map[string]string{"ISTIO_META_DNS_CAPTURE": ""}, func(p *Pod) bool { return !p.DNS }},
		"own concurrency": {map[string]string{"PROXY_CONFIG": `{"discoveryAddress":"a:1","concurrency":3}`}, func(p *Pod) bool { return p.Concurrency == 3 }},
		"memory":          {map[string]string{"GOMEMLIMIT": "1000000000"}, func(p *Pod) bool { return p.Memory == 1000000000 }},
		"memory by hand":  {map[string]string{"GOMEMLIMIT": "100MiB"}, func(p *Pod) bool { return p.Memory == 0 }},
		"no cpu limit":    {map[string]string{"ISTIO_CPU_LIMIT": ""}, func(p *Pod) bool { return p.Concurrency == 0 }},
		"limits": {map[string]string{"PROXY_CONFIG": `{"discoveryAddress":"a:1","runtimeValues":{"overload.global_downstream_max_connections":"5","k":"v"}}`}, func(p *Pod) bool {
			return len(p.Runtime) == 2 && p.Runtime["overload.global_downstream_max_connections"] == "5"
		}},
		"the newer word for a limit": {map[string]string{"ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS": "7"}, func(p *Pod) bool { return p.Runtime["overload.global_downstream_max_connections"] == "7" }},
		"drain":                      {map[string]string{"PROXY_CONFIG": `{"discoveryAddress":"a:1","terminationDrainDuration":"20s"}`}, func(p *Pod) bool { return p.Drain == 20*time.Second && !p.UntilIdle }},
		"until idle": {map[string]string{"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true", "MINIMUM_DRAIN_DURATION": "7s"},
			func(p *Pod) bool { return p.Drain == 7*time.Second && p.UntilIdle }},
		"probes": {map[string]string{"ISTIO_KUBE_APP_PROBERS": `{"/app-health/c/readyz":{"httpGet":{"path":"/r","port":8080}},"/app-health/c/livez":{"tcpSocket":{"port":"none"}}}`},
			func(p *Pod) bool { return p.Probes["/app-health/c/readyz"].HTTP.Port == 8080 && len(p.Probes) == 2 }},
		"not scraped": {map[string]string{"ISTIO_PROMETHEUS_ANNOTATIONS": `{"scrape":"false","port":"x"}`}, func(p *Pod) bool { return p.Scrape == nil }},
		"scraped":     {map[string]string{"ISTIO_PROMETHEUS_ANNOTATIONS": `{"scrape":"true"}`}, func(p *Pod) bool { return *p.Scrape == Scrape{80, "/metrics"} }},
	} {
		p, err := FromEnvironment(false, injected(x.change))
		if err != nil || !x.holds(p) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	for want, change := range map[string]map[string]string{
		"POD_NAME: not set":                {"POD_NAME": ""},
		"INSTANCE_IP":                      {"INSTANCE_IP": "", "INSTANCE_IPS": ""},
		`"x" is no address`:                {"INSTANCE_IPS": "x"},
		"no discoveryAddress":              {"PROXY_CONFIG": "{}"},
		"PROXY_CONFIG":                     {"PROXY_CONFIG": "{"},
		`"many" is no number`:              {"ISTIO_CPU_LIMIT": "many"},
		`"soon" is no duration`:            {"PROXY_CONFIG": `{"discoveryAddress":"a:1","terminationDrainDuration":"soon"}`},
		"want httpGet, tcpSocket or grpc":  {"ISTIO_KUBE_APP_PROBERS": `{"/x":{}}`},
		`port "99999" is no number`:        {"ISTIO_PROMETHEUS_ANNOTATIONS": `{"scrape":"true","port":"99999"}`},
		"port 15020 is the sidecar's own":  {"ISTIO_PROMETHEUS_ANNOTATIONS": `{"scrape":"true","port":"15020"}`},
		`"perhaps" is neither true nor fa`: {"ISTIO_META_DNS_CAPTURE": "perhaps"},
	} {
		if _, err := FromEnvironment(false, injected(change)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := FromEnvironment(false, func(string) string { return "" }); !errors.Is(err, ErrNotInPod) {
		t.Errorf("outside of a pod: %v", err)
	}
}

func TestLabels(t *testing.T) {
	got, err := parseInfo("app=\"web\"\nservice.istio.io/canonical-name=\"a \\\"b\\\"\"\n\n")
	if want := map[string]string{"app": "web", "service.istio.io/canonical-name": `a "b"`}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := parseInfo("app=web\n"); err == nil {
		t.Error("a value without quotes was taken")
	}
}
