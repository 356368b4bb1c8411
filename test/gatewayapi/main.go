//go:build linux

// Command gatewayapi runs the Gateway API's conformance suite against Tulle on a
// cluster of its own, and writes the suite's reports: one of its profiles of
// gateways, one of those of the mesh.
//
// In: flags, and after them flags of the suite; root, and what package cluster
// needs. Out: the suite's verdicts on stdout, the reports in files. What does not
// belong here: the suite (test/conformance, a module of its own), the cluster
// (test/cluster).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/test/cluster"
)

// Images that the suite's manifests name.
var (
	echoes       = []string{"registry.k8s.io/gateway-api/echo-basic:v1.5.1", "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.2", "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3"}
	dnsServer    = "registry.k8s.io/coredns/coredns:v1.12.2"          // behind UDPRoutes
	echoAdvanced = "registry.k8s.io/gateway-api/echo-advanced:v1.5.1" // in the mesh
)

// run is one run of the suite.
type run struct {
	name, profiles string
	flags          []string
}

var runs = []run{
	// What is extended the status of the GatewayClass says.
	{"gateway", "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS", nil},
	// A mesh has no object that would say it.
	{"mesh", "MESH-HTTP,MESH-GRPC", []string{"--namespace-labels=istio-injection=enabled", "--supported-features=" + meshFeatures}},
}

const meshFeatures = "Mesh,HTTPRoute,GRPCRoute,HTTPRouteParentRefPort,HTTPRouteResponseHeaderModification,HTTPRouteQueryParamMatching," +
	"MeshConsumerRoute,MeshHTTPRouteRewritePath,MeshHTTPRouteSchemeRedirect,MeshHTTPRouteRedirectPort,MeshHTTPRouteRedirectPath," +
	"MeshHTTPRouteBackendRequestHeaderModification,MeshHTTPRouteQueryParamMatching,MeshHTTPRouteNamedRouteRule"

func main() {
	reports := flag.String("reports", "", "directory of the reports, NAME.yaml; empty: none")
	only := flag.String("only", "", "one run: gateway or mesh")
	version := flag.String("version", "dev", "of Tulle, as the reports say it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := all(ctx, *only, *reports, *version); err != nil {
		fmt.Fprintln(os.Stderr, "gatewayapi:", err)
		os.Exit(1)
	}
}

// all runs on one cluster.
func all(ctx context.Context, only, reports, version string) error {
	dir, err := os.MkdirTemp("", "tulle-conformance-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if reports != "" { // the suite runs elsewhere
		if reports, err = filepath.Abs(reports); err != nil {
			return err
		}
		if err := os.MkdirAll(reports, 0o755); err != nil {
			return err
		}
	}
	suite, images, err := build(ctx, dir)
	if err != nil {
		return err
	}
	c, err := cluster.Up(ctx, cluster.Options{Log: os.Stderr, Images: images})
	if err != nil {
		return err
	}
	if err := install(ctx, c, filepath.Join(dir, "tulle")); err != nil {
		return errors.Join(err, c.Down())
	}
	life, cancel := context.WithCancel(ctx)
	defer cancel()
	go balance(life, c)
	for _, r := range runs {
		if only != "" && r.name != only {
			continue
		}
		args := append([]string{suite, "-test.v", "-test.timeout=2h", "--conformance-profiles=" + r.profiles, "--gateway-class=tulle", "--organization=tulle-mesh", "--project=tulle",
			"--url=https://github.com/tulle-mesh/tulle", "--version=" + version, "--contact=https://github.com/tulle-mesh/tulle/issues"}, r.flags...)
		if reports != "" {
			args = append(args, "--report-output="+filepath.Join(reports, r.name+".yaml"))
		}
		err = errors.Join(err, conform(ctx, c, append(args, flag.Args()...)))
	}
	return errors.Join(err, c.Down())
}

// build everything that runs, and list the cluster's images.
func build(ctx context.Context, dir string) (suite string, images []cluster.Image, err error) {
	suite, basic, advanced := filepath.Join(dir, "suite"), filepath.Join(dir, "basic"), filepath.Join(dir, "advanced")
	for _, args := range [][]string{
		{"test", "-c", "-o", suite, "."},
		{"build", "-ldflags=-s -w", "-o", basic, "sigs.k8s.io/gateway-api/conformance/echo-basic"},
		{"build", "-ldflags=-s -w", "-o", advanced, "./echo"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = filepath.Join("test", "conformance")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	components, err := cluster.Components(ctx, os.Stderr)
	if err != nil {
		return "", nil, err
	}
	const bin = "/usr/local/bin/"
	for image, name := range map[string]string{"tulle.test/tulle:1": "tulle", "tulle.test/proxy:1": "tulle-proxy"} {
		file := filepath.Join(dir, name)
		if err := cluster.Program(ctx, "./cmd/"+name, file); err != nil {
			return "", nil, err
		}
		images = append(images, cluster.Image{Name: image, Files: map[string]string{bin + name: file}, Entrypoint: []string{bin + name}, User: "1337"})
	}
	images = append(images, cluster.Image{Name: dnsServer, Files: map[string]string{"/coredns": filepath.Join(components, "coredns")}, Entrypoint: []string{"/coredns"}},
		cluster.Image{Name: echoAdvanced, Files: map[string]string{bin + "echo": advanced}, Links: map[string]string{bin + "client": "echo"}, Entrypoint: []string{bin + "echo"}})
	for _, name := range echoes {
		images = append(images, cluster.Image{Name: name, Files: map[string]string{"/echo": basic}, Entrypoint: []string{"/echo"}, User: "nobody"})
	}
	return suite, images, nil
}

// install Tulle, as a user does who has the Gateway API already.
func install(ctx context.Context, c *cluster.Cluster, tulle string) error {
	if err := c.InstallGatewayAPI(ctx); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, tulle, "install", "-y", "--kubeconfig", c.Kubeconfig, "--set", "profile=minimal", "--set", "hub=tulle.test", "--set", "tag=1")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("tulle install: %w", err)
	}
	return nil
}

// conform runs the suite from inside the cluster's network.
func conform(ctx context.Context, c *cluster.Cluster, args []string) error {
	config, err := c.InsideKubeconfig()
	if err != nil {
		return err
	}
	cmd, err := c.In(ctx, 0, args...)
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "KUBECONFIG="+config)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	if err != nil {
		logs, _ := c.Kubectl(context.WithoutCancel(ctx), "-n", "istio-system", "logs", "-l", "app=istiod", "--tail=100")
		fmt.Fprintln(os.Stderr, logs)
	}
	return err
}

// balance is the cluster's load balancer: a Service's address is the one that
// every node takes for it anyway.
func balance(ctx context.Context, c *cluster.Cluster) {
	for ctx.Err() == nil {
		out, _ := c.Kubectl(ctx, "get", "services", "-A", "-o", `jsonpath={range .items[?(@.spec.type=="LoadBalancer")]}{.metadata.namespace} {.metadata.name} {.spec.clusterIP} {.status.loadBalancer.ingress[0].ip}{"\n"}{end}`)
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) != 3 { // it has one
				continue
			}
			_, _ = c.Kubectl(ctx, "-n", f[0], "patch", "service", f[1], "--subresource=status", "--type=merge", "-p", `{"status":{"loadBalancer":{"ingress":[{"ip":"`+f[2]+`"}]}}}`) // tried again
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
}
