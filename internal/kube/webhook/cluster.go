package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/tulle-mesh/tulle/internal/kube/inject"
	"github.com/tulle-mesh/tulle/internal/kube/objects"
)

// firstNative is the kubelet that runs native sidecars without being told to.
var firstNative = version.MustParseGeneric("1.29.0")

// Cluster is what the cluster says about injection. Safe for concurrent use.
type Cluster struct {
	Client    corev1client.CoreV1Interface
	Namespace string // of the control plane
	Revision  string
	Tell      func(format string, args ...any)

	namespaces *objects.Set[*corev1.Namespace]
	nodes      *objects.Set[*corev1.Node]
	values     *objects.Set[*corev1.ConfigMap]
	mesh       *objects.Set[*corev1.ConfigMap]
	now        atomic.Pointer[settled]
}

// settled is a Config or why there is none.
type settled struct {
	conf *inject.Config
	err  error
}

// Run follows the cluster until ctx ends.
func (c *Cluster) Run(ctx context.Context) error {
	flag := objects.NewFlag()
	rest := c.Client.RESTClient()
	tell := func(err error) { c.Tell("%v", err) }
	var err error
	follow := func(name string) (s *objects.Set[*corev1.ConfigMap]) {
		if err == nil {
			s, err = objects.Follow(ctx, objects.Kind{Client: rest, Resource: "configmaps", Namespace: c.Namespace, Name: c.named(name), Tell: tell}, &corev1.ConfigMap{}, nil, flag.Raise)
		}
		return s
	}
	c.values, c.mesh = follow(InjectorMap), follow(MeshMap)
	if err != nil {
		return err
	}
	if c.namespaces, err = objects.Follow(ctx, objects.Kind{Client: rest, Resource: "namespaces", Tell: tell}, &corev1.Namespace{}, nil, func() {}); err != nil {
		return err
	}
	keepVersion := func(n *corev1.Node) {
		n.Labels, n.Annotations, n.Spec = nil, nil, corev1.NodeSpec{}
		n.Status = corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: n.Status.NodeInfo.KubeletVersion}}
	}
	if c.nodes, err = objects.Follow(ctx, objects.Kind{Client: rest, Resource: "nodes", Tell: tell}, &corev1.Node{}, keepVersion, flag.Raise); err != nil {
		return err
	}
	for {
		c.settle()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-flag:
		}
	}
}

// named is a ConfigMap's name in this revision.
func (c *Cluster) named(name string) string {
	if c.Revision == "" || c.Revision == "default" {
		return name
	}
	return name + "-" + c.Revision
}

// settle what holds now. Settings that cannot be read leave the last good ones.
func (c *Cluster) settle() {
	old := c.now.Load()
	if !c.values.Listed() || !c.mesh.Listed() || !c.nodes.Listed() || !c.namespaces.Listed() {
		return
	}
	values, ok := c.values.Get(c.Namespace, c.named(InjectorMap))
	var conf *inject.Config
	err := fmt.Errorf("there is no ConfigMap %s/%s with the settings of injection", c.Namespace, c.named(InjectorMap))
	if ok {
		var m []byte
		if x, ok := c.mesh.Get(c.Namespace, c.named(MeshMap)); ok {
			m = []byte(x.Data[MeshKey])
		}
		if conf, err = Settings([]byte(values.Data[ValuesKey]), m, c.native()); err != nil {
			err = fmt.Errorf("ConfigMap %s/%s: %w", c.Namespace, c.named(InjectorMap), err)
		}
	}
	if err != nil {
		if old == nil || old.err == nil || old.err.Error() != err.Error() {
			c.Tell("%v", err)
		}
		if old != nil && old.conf != nil {
			conf = old.conf
		}
	}
	c.now.Store(&settled{conf, err})
}

// native reports whether every node's kubelet runs native sidecars.
func (c *Cluster) native() bool {
	all := c.nodes.All()
	for _, n := range all {
		v, err := version.ParseGeneric(n.Status.NodeInfo.KubeletVersion)
		if err != nil || v.LessThan(firstNative) {
			return false
		}
	}
	return len(all) > 0
}

// Read reports whether the cluster's settings were read, good or not.
func (c *Cluster) Read() bool { return c.now.Load() != nil }

// Config is Handler.Config.
func (c *Cluster) Config() (*inject.Config, error) {
	s := c.now.Load()
	switch {
	case s == nil:
		return nil, errors.New("the settings of injection have not been read yet")
	case s.conf == nil:
		return nil, s.err
	}
	return s.conf, nil
}

// Labels is Handler.Namespace. A namespace that was made a moment ago is asked
// for.
func (c *Cluster) Labels(r *http.Request, name string) (map[string]string, error) {
	if c.now.Load() != nil {
		if ns, ok := c.namespaces.Get("", name); ok {
			return ns.Labels, nil
		}
	}
	ns, err := c.Client.Namespaces().Get(r.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return ns.Labels, nil
}
