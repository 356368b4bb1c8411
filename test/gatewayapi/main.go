//go:build linux

// Command gatewayapi runs the Gateway API's conformance suite against Tulle on a
// cluster of its own, and writes the suite's report.
//
// In: flags; root, and what package cluster needs. Out: the suite's verdicts on
// stdout, the report in a file. What does not belong here: the suite
// (test/conformance, a module of its own), the cluster (test/cluster).
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

// echoes are the images that the suite's manifests name. All are its one echo
// program.
var echoes = []string{
	"registry.k8s.io/gateway-api/echo-basic:v1.5.1", "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.2",
	"registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3", "registry.k8s.io/gateway-api/echo-advanced:v1.5.1",
}

func main() {
	profiles := flag.String("profiles", "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS", "profiles of the suite")
	report := flag.String("report", "", "file of the report; empty: none")
	only := flag.String("run", "", "one test of the suite")
	version := flag.String("version", "dev", "of Tulle, as the report says it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args := []string{"--gateway-class=tulle", "--conformance-profiles=" + *profiles, "--organization=tulle-mesh", "--project=tulle",
		"--url=https://github.com/tulle-mesh/tulle", "--version=" + *version, "--contact=https://github.com/tulle-mesh/tulle/issues"}
	if *only != "" {
		args = append(args, "--run-test="+*only)
	}
	if *report != "" {
		abs, err := filepath.Abs(*report)
		if err != nil {
			fail(err)
		}
		args = append(args, "--report-output="+abs)
	}
	if err := run(ctx, args); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "gatewayapi:", err)
	os.Exit(1)
}

// run the suite with its flags.
func run(ctx context.Context, args []string) error {
	dir, err := os.MkdirTemp("", "tulle-conformance-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	suite, images, err := build(ctx, dir)
	if err != nil {
		return err
	}
	c, err := cluster.Up(ctx, cluster.Options{Log: os.Stderr, Images: images})
	if err != nil {
		return err
	}
	return errors.Join(conform(ctx, c, filepath.Join(dir, "tulle"), suite, args), c.Down())
}

// build everything that runs, and list the cluster's images.
func build(ctx context.Context, dir string) (suite string, images []cluster.Image, err error) {
	suite, echo := filepath.Join(dir, "suite"), filepath.Join(dir, "echo")
	for _, args := range [][]string{
		{"test", "-c", "-o", suite, "."},
		{"build", "-ldflags=-s -w", "-o", echo, "sigs.k8s.io/gateway-api/conformance/echo-basic"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = filepath.Join("test", "conformance")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	const bin = "/usr/local/bin/"
	for image, name := range map[string]string{"tulle.test/tulle:1": "tulle", "tulle.test/proxy:1": "tulle-proxy"} {
		file := filepath.Join(dir, name)
		if err := cluster.Program(ctx, "./cmd/"+name, file); err != nil {
			return "", nil, err
		}
		images = append(images, cluster.Image{Name: image, Files: map[string]string{bin + name: file}, Entrypoint: []string{bin + name}, User: "1337"})
	}
	for _, name := range echoes {
		images = append(images, cluster.Image{Name: name, Files: map[string]string{"/echo": echo}, Entrypoint: []string{"/echo"}, User: "nobody"})
	}
	return suite, images, nil
}

// conform installs Tulle and runs the suite from inside the cluster's network.
func conform(ctx context.Context, c *cluster.Cluster, tulle, suite string, args []string) error {
	if err := c.InstallGatewayAPI(ctx); err != nil {
		return err
	}
	install := exec.CommandContext(ctx, tulle, "install", "-y", "--kubeconfig", c.Kubeconfig, "--set", "profile=minimal", "--set", "hub=tulle.test", "--set", "tag=1")
	install.Stdout, install.Stderr = os.Stderr, os.Stderr
	if err := install.Run(); err != nil {
		return fmt.Errorf("tulle install: %w", err)
	}
	config, err := c.InsideKubeconfig()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go balance(ctx, c)
	cmd, err := c.In(ctx, 0, append([]string{suite, "-test.v", "-test.timeout=2h"}, args...)...)
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
