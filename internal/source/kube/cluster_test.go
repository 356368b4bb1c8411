//go:build linux && e2e

package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/test/cluster"
)

// TestWatch is one API server's story: kinds that come and go, an outage,
// rights that are missing.
func TestWatch(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // a cold build
	defer cancel()
	c, err := cluster.Up(ctx, cluster.Options{APIOnly: true, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	}()
	config, err := Config(c.Kubeconfig, "")
	if err != nil {
		t.Fatal(err)
	}
	w := start(ctx, t, config)
	w.until("the cluster's own objects", func(s source.Snapshot) bool { return has(s, "Service default/kubernetes", "Namespace /default") })

	t.Run("kinds come and go", func(t *testing.T) {
		w := w.in(t)
		if err := c.InstallAPIs(ctx); err != nil {
			t.Fatal(err)
		}
		apply(ctx, t, c, `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec: {hosts: [orders], http: [{route: [{destination: {host: orders}}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec: {rules: [{backendRefs: [{name: orders, port: 80}]}]}
---
apiVersion: v1
kind: Secret
metadata: {name: cert, namespace: shop}
stringData: {password: not-for-us}
`)
		s := w.until("objects of kinds that came", func(s source.Snapshot) bool {
			return has(s, "VirtualService shop/orders", "HTTPRoute shop/orders", "Secret shop/cert")
		})
		for _, o := range s.Objects {
			if bytes.Contains(o.JSON, []byte("managedFields")) || bytes.Contains(o.JSON, []byte("resourceVersion")) {
				t.Errorf("%s %s has what changes without meaning: %s", o.Kind, o.Name, o.JSON)
			}
			if o.Kind == "Secret" && bytes.Contains(o.JSON, []byte("password")) {
				t.Errorf("a secret that is no certificate: %s", o.JSON)
			}
			if o.Kind == "VirtualService" && (o.APIVersion != "networking.istio.io/v1" || o.Created.IsZero()) {
				t.Errorf("VirtualService as %s, made %v", o.APIVersion, o.Created)
			}
		}
		served := strings.Fields(mustKubectl(ctx, t, c, "get", "crd", "-o", "jsonpath={.items[*].metadata.name}"))
		for n := range known { // our spelling of a resource is its CRD's
			if !slices.Contains(served, n) {
				t.Errorf("no CRD is called %s; there are %v", n, served)
			}
		}
		for _, n := range served {
			if known[n] == nil {
				t.Errorf("objects of %s are not read", n)
			}
		}
		loaded, err := Load(ctx, config, "")
		if err != nil {
			t.Fatal(err)
		}
		if have, want := names(loaded), names(w.last()); !slices.Equal(have, want) {
			t.Errorf("Load and Watch differ:\n%v\n%v", have, want)
		}
		mustKubectl(ctx, t, c, "delete", "crd", "httproutes.gateway.networking.k8s.io")
		w.until("a kind that went", func(s source.Snapshot) bool {
			return !has(s, "HTTPRoute shop/orders") && has(s, "VirtualService shop/orders")
		})
	})

	t.Run("an outage", func(t *testing.T) {
		w := w.in(t)
		before := w.last()
		if err := c.KillAPIServer(); err != nil {
			t.Fatal(err)
		}
		s := w.until("a notice", func(s source.Snapshot) bool { return len(s.Notices) > 0 })
		if !slices.Equal(s.Objects, before.Objects) {
			t.Errorf("objects changed while nobody could say so:\n%v\n%v", names(before), names(s))
		}
		if text := s.Notices[0].Text; !strings.HasPrefix(text, "the cluster's API server cannot be reached (") || !strings.HasSuffix(text, "what was last known stays in effect") {
			t.Errorf("notice %q", text)
		}
		if err := c.StartAPIServer(ctx); err != nil {
			t.Fatal(err)
		}
		apply(ctx, t, c, `
apiVersion: v1
kind: Namespace
metadata: {name: after}
`)
		s = w.until("what came after", func(s source.Snapshot) bool { return has(s, "Namespace /after") && len(s.Notices) == 0 })
		for _, o := range before.Objects {
			if !slices.Contains(s.Objects, o) {
				t.Errorf("%s %s/%s did not change and has another pointer", o.Kind, o.Namespace, o.Name)
			}
		}
	})

	t.Run("rights", func(t *testing.T) {
		poor := rest.CopyConfig(config)
		poor.Impersonate.UserName = "mesh"
		mustKubectl(ctx, t, c, "create", "clusterrole", "mesh", "--verb=get,list,watch", "--resource=namespaces,nodes,services,pods,configmaps,endpointslices.discovery.k8s.io")
		mustKubectl(ctx, t, c, "create", "clusterrolebinding", "mesh", "--clusterrole=mesh", "--user=mesh")
		w := start(ctx, t, poor)
		w.told(`cannot read customresourcedefinitions.apiextensions.k8s.io, secrets, ingressclasses.networking.k8s.io, ingresses.networking.k8s.io from the cluster (forbidden: User "mesh" cannot list and watch them); nothing is served before all was read`)
		if w.last().Objects != nil {
			t.Error("a snapshot without the kinds that we may not read")
		}
		if _, err := Load(ctx, poor, ""); err == nil || !strings.Contains(err.Error(), "customresourcedefinitions") {
			t.Errorf("Load: %v", err)
		}
		mustKubectl(ctx, t, c, "create", "clusterrolebinding", "mesh-admin", "--clusterrole=cluster-admin", "--user=mesh")
		w.until("everything, now that it may be read", func(s source.Snapshot) bool { return has(s, "VirtualService shop/orders") })
		w.told("the cluster can be read again")
	})
}

// watching is a Watcher that runs, and what it said.
type watching struct {
	t *testing.T
	*heard
}

// in a subtest, which a wait then fails.
func (w *watching) in(t *testing.T) *watching { return &watching{t, w.heard} }

type heard struct {
	ctx context.Context

	mu    sync.Mutex
	snap  source.Snapshot
	lines []string
	next  chan struct{} // closed at every change
}

func start(ctx context.Context, t *testing.T, config *rest.Config) *watching {
	ctx, cancel := context.WithCancel(ctx)
	w := &watching{t, &heard{ctx: ctx, next: make(chan struct{})}}
	ended := make(chan error, 1)
	watcher := &Watcher{Config: config, Log: func(format string, args ...any) {
		t.Logf(format, args...)
		w.change(func() { w.lines = append(w.lines, strings.TrimSpace(fmt.Sprintf(format, args...))) })
	}}
	go func() { ended <- watcher.Watch(ctx, func(s source.Snapshot) { w.change(func() { w.snap = s }) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v", err)
		}
	})
	return w
}

func (w *watching) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.next)
	w.next = make(chan struct{})
}

func (w *watching) last() source.Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.snap
}

// until a snapshot is as wanted.
func (w *watching) until(what string, ok func(source.Snapshot) bool) source.Snapshot {
	w.t.Helper()
	w.wait(what, func() bool { return ok(w.snap) })
	return w.last()
}

// told waits for a message.
func (w *watching) told(part string) {
	w.t.Helper()
	w.wait(part, func() bool {
		return slices.ContainsFunc(w.lines, func(l string) bool { return strings.Contains(l, part) })
	})
}

func (w *watching) wait(what string, ok func() bool) {
	w.t.Helper()
	late := time.After(2 * time.Minute)
	for {
		w.mu.Lock()
		done, next := ok(), w.next
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-next:
		case <-late:
			w.t.Fatalf("waited for %s; there are %v, and it said %q", what, names(w.last()), w.lines)
		case <-w.ctx.Done():
			w.t.Fatalf("waited for %s", what)
		}
	}
}

func name(o *source.Object) string { return o.Kind + " " + o.Namespace + "/" + o.Name }

func names(s source.Snapshot) []string {
	var out []string
	for _, o := range s.Objects {
		out = append(out, name(o))
	}
	return out
}

func has(s source.Snapshot, wanted ...string) bool {
	all := names(s)
	return !slices.ContainsFunc(wanted, func(n string) bool { return !slices.Contains(all, n) })
}

func apply(ctx context.Context, t *testing.T, c *cluster.Cluster, yaml string) {
	t.Helper()
	if err := c.Apply(ctx, []byte(yaml)); err != nil {
		t.Fatal(err)
	}
}

func mustKubectl(ctx context.Context, t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
