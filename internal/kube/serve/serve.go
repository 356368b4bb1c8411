// Package serve runs the control plane in a Kubernetes cluster: the authority's
// key from its Secret, callers by their service account's token, the webhooks,
// and what only one replica does.
//
// In: a REST configuration and where the control plane runs. Out: servers on
// Istio's ports, ConfigMaps and webhook configurations.
// What does not belong here: any of the parts' own rules.
package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/dynamic"
	admissionclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	authclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/api"
	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/dialect/gatewayapi"
	"github.com/tulle-mesh/tulle/internal/kube/gateways"
	"github.com/tulle-mesh/tulle/internal/kube/inject"
	"github.com/tulle-mesh/tulle/internal/kube/lease"
	"github.com/tulle-mesh/tulle/internal/kube/objects"
	"github.com/tulle-mesh/tulle/internal/kube/root"
	"github.com/tulle-mesh/tulle/internal/kube/status"
	"github.com/tulle-mesh/tulle/internal/kube/tokens"
	"github.com/tulle-mesh/tulle/internal/kube/webhook"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/kube"
)

// Options of a control plane in a cluster. Config, Namespace, Name, State and
// Log must be set.
type Options struct {
	Config      *rest.Config
	Namespace   string // of the control plane, the mesh's root namespace
	Name        string // of this replica: its pod's
	Revision    string // empty: default
	TrustDomain string // empty: cluster.local
	State       string // directory for sockets
	Version     string
	// Addresses; empty: Istio's ports on every address.
	Proxies  string // xDS and certificates over TLS, :15012
	Webhooks string // HTTPS, :15017
	Metrics  string // :15014
	Health   string // /ready, :8080
	Lease    lease.Times
	Log      func(format string, args ...any) // called concurrently
}

// running is a control plane on its way.
type running struct {
	Options
	core     corev1client.CoreV1Interface
	admit    admissionclient.AdmissionregistrationV1Interface
	dyn      dynamic.Interface
	leases   coordinationclient.LeasesGetter
	store    *root.Store
	ca       *ca.Authority
	plane    *control.Plane
	cluster  *webhook.Cluster
	handler  *webhook.Handler
	rekeyed  []objects.Flag
	admin    *api.Server
	listener struct{ webhooks, metrics, health, admin net.Listener }
}

// Server is a control plane whose sockets are open. Run must be called.
type Server struct{ r *running }

// New makes what must be there before anything is served: the authority, which
// is waited for until ctx ends, and the sockets.
func New(ctx context.Context, o Options) (*Server, error) {
	o.TrustDomain = cmp.Or(o.TrustDomain, link.Defaults().TrustDomain)
	if o.Lease == (lease.Times{}) {
		o.Lease = lease.Usual
	}
	r := &running{Options: o}
	tokenReviews, err := r.clients()
	if err != nil {
		return nil, fmt.Errorf("the cluster's API: %w", err)
	}
	r.store = &root.Store{Client: r.core, Namespace: o.Namespace, TrustDomain: o.TrustDomain}
	m, err := r.material(ctx)
	if err != nil {
		return nil, err
	}
	if r.ca, err = ca.New(m, ca.Options{}); err != nil {
		return nil, err
	}
	settings := link.Defaults()
	settings.TrustDomain, settings.RootNamespace = o.TrustDomain, o.Namespace
	r.plane, err = control.New(control.Options{
		Dir: o.State, CA: r.ca, Settings: &settings, Version: o.Version, Log: o.Log,
		Source:  &kube.Watcher{Config: o.Config, Log: o.Log},
		Address: cmp.Or(o.Proxies, ":15012"), Names: r.names(),
		Token: tokens.New(tokenReviews, inject.TokenAudience, o.TrustDomain).Caller,
	})
	if err != nil {
		return nil, err
	}
	if err := r.listen(); err != nil {
		r.plane.Close()
		return nil, err
	}
	r.admin = api.NewServer(r.plane, o.Version, o.Log)
	r.cluster = &webhook.Cluster{Client: r.core, Namespace: o.Namespace, Revision: o.Revision, Tell: o.Log}
	r.handler = &webhook.Handler{Config: r.cluster.Config, Namespace: r.cluster.Labels, Check: check, Tell: o.Log}
	r.rekeyed = []objects.Flag{objects.NewFlag(), objects.NewFlag()}
	return &Server{r}, nil
}

// Proxies is the address at which proxies are served.
func (s *Server) Proxies() string { return s.r.plane.Address() }

// Webhooks is the address of the webhooks.
func (s *Server) Webhooks() string { return s.r.listener.webhooks.Addr().String() }

// Health is the address of /ready.
func (s *Server) Health() string { return s.r.listener.health.Addr().String() }

// Metrics is the address of /metrics.
func (s *Server) Metrics() string { return s.r.listener.metrics.Addr().String() }

// Plane that is served.
func (s *Server) Plane() *control.Plane { return s.r.plane }

func (r *running) clients() (tokens.Creator, error) {
	c := rest.CopyConfig(r.Config)
	c.QPS = -1 // the API server has a better idea of what it can bear
	core, err := corev1client.NewForConfig(c)
	if err != nil {
		return nil, err
	}
	r.core = core
	if r.admit, err = admissionclient.NewForConfig(c); err != nil {
		return nil, err
	}
	if r.leases, err = coordinationclient.NewForConfig(c); err != nil {
		return nil, err
	}
	if r.dyn, err = dynamic.NewForConfig(c); err != nil {
		return nil, err
	}
	auth, err := authclient.NewForConfig(c)
	if err != nil {
		return nil, err
	}
	return auth.TokenReviews(), nil
}

// material of the authority. While the API server is away it is waited for;
// a Secret that does not fit together is too, for its owner may mend it.
func (r *running) material(ctx context.Context) (ca.Material, error) {
	told := ""
	for {
		m, err := r.store.Load(ctx)
		if err == nil || ctx.Err() != nil {
			return m, err
		}
		if told != err.Error() {
			told = err.Error()
			r.Log("%v; waiting for it", err)
		}
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// names under which proxies and the API server dial the control plane: Istio's
// Service, that of the revision, and our own.
func (r *running) names() []string {
	services := []string{"istiod", "istio-pilot", "tulle"}
	if r.Revision != "" && r.Revision != "default" {
		services = append(services, "istiod-"+r.Revision)
	}
	var out []string
	for _, s := range services {
		s += "." + r.Namespace
		out = append(out, s, s+".svc", s+".svc.cluster.local")
	}
	return out
}

func (r *running) listen() error {
	l := &r.listener
	var opened []net.Listener
	open := func(dst *net.Listener, address string) error {
		x, err := net.Listen("tcp", address)
		if err == nil {
			*dst, opened = x, append(opened, x)
		}
		return err
	}
	err := errors.Join(
		open(&l.webhooks, cmp.Or(r.Webhooks, ":15017")),
		open(&l.metrics, cmp.Or(r.Metrics, ":15014")),
		open(&l.health, cmp.Or(r.Health, ":8080")),
	)
	if err == nil {
		l.admin, err = control.ListenUnix(filepath.Join(r.State, api.Socket))
	}
	if err != nil {
		for _, x := range opened {
			x.Close()
		}
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// check is everything that is wrong with one object, as tulle validate says it.
func check(o *source.Object) []model.Notice {
	_, notices := control.Read(source.Snapshot{Objects: []*source.Object{o}})
	return notices
}

// Run serves until ctx ends or a part fails. Everything has ended when it
// returns.
func (s *Server) Run(ctx context.Context) error {
	r := s.r
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	start := func(what string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
				errs <- fmt.Errorf("%s: %w", what, err)
			}
			cancel()
		})
	}
	start("control plane", r.plane.Run)
	start("admin API", func(ctx context.Context) error { return r.admin.Serve(ctx, r.listener.admin) })
	start("injection", r.cluster.Run)
	start("authority", r.follow)
	start("lease", func(ctx context.Context) error {
		name := "tulle-leader"
		if r.Revision != "" && r.Revision != "default" {
			name += "-" + r.Revision
		}
		l := &lease.Lease{Client: r.leases, Namespace: r.Namespace, Name: name, Holder: r.Name, Times: r.Lease, Tell: r.Log}
		return l.Run(ctx, r.lead)
	})
	start("webhooks", func(ctx context.Context) error { return r.serve(ctx, r.listener.webhooks, r.handler, true) })
	start("metrics", func(ctx context.Context) error { return r.serve(ctx, r.listener.metrics, r.metrics(), false) })
	start("health", func(ctx context.Context) error { return r.serve(ctx, r.listener.health, r.health(), false) })
	wg.Wait()
	close(errs)
	return <-errs
}

// follow the Secrets of the authority.
func (r *running) follow(ctx context.Context) error {
	changed := func(m ca.Material) {
		before := string(r.ca.Bundle())
		if err := r.ca.Replace(m); err != nil {
			r.Log("%v; what was there stays", err)
			return
		}
		if before != string(r.ca.Bundle()) {
			r.Log("the roots of the mesh have changed")
			r.plane.Rekeyed()
			for _, f := range r.rekeyed {
				f.Raise()
			}
		}
	}
	return r.store.Watch(ctx, changed, func(err error) { r.Log("%v; what was there stays", err) })
}

// lead does what only one replica does.
func (r *running) lead(ctx context.Context) {
	d := &root.Distributor{Client: r.core, Roots: r.ca.Bundle, Changed: r.rekeyed[0], Tell: func(err error) { r.Log("%v", err) }}
	g := &webhook.Registrar{
		Client: r.admit, Dynamic: r.dyn, Namespace: r.Namespace, Revision: r.Revision,
		Roots: r.ca.Bundle, Changed: r.rekeyed[1], Tell: r.Log,
	}
	s := &status.Writer{Client: r.dyn, Controller: gatewayapi.Controller, Read: r.plane.Reading, Tell: r.Log}
	gw := &gateways.Runner{Client: r.dyn, Controller: gatewayapi.Controller, Read: r.plane.Reading, Config: r.cluster.Config, Tell: r.Log}
	var wg sync.WaitGroup
	for _, f := range []func(context.Context) error{d.Run, g.Run, s.Run, gw.Run} {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				r.Log("%v", err)
			}
		})
	}
	wg.Wait()
}
