package kube

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tulle-mesh/tulle/internal/source"
)

// page is how many objects are asked for at a time.
const page = 500

// Load reads a cluster once. With a namespace only what is in it, and the
// Namespace itself, is read. Anything that cannot be read is an error.
func Load(ctx context.Context, config *rest.Config, namespace string) (source.Snapshot, error) {
	client, err := dynamic.NewForConfig(unlimited(config))
	if err != nil {
		return source.Snapshot{}, fmt.Errorf("read the cluster: %w", err)
	}
	var snap source.Snapshot
	served := map[string][]string{}
	list, err := client.Resource(crdResource).List(ctx, metav1.ListOptions{})
	if err != nil {
		return snap, fmt.Errorf("read the cluster's custom resource definitions: %w", err)
	}
	for i := range list.Items {
		served[list.Items[i].GetName()] = versionsServed(&list.Items[i])
	}
	for _, r := range resources {
		version := r.versions[0]
		if r.custom {
			version = r.best(served[r.String()])
		}
		if version == "" {
			continue
		}
		objects, err := r.list(ctx, client.Resource(r.at(version)), namespace)
		if err != nil {
			return source.Snapshot{}, fmt.Errorf("read the cluster's %s: %w", r, err)
		}
		snap.Objects = append(snap.Objects, objects...)
	}
	return snap, nil
}

// unscoped kinds are in no namespace.
var unscoped = map[string]bool{"Namespace": true, "Node": true, "IngressClass": true, "GatewayClass": true}

// list reads one kind, in pages.
func (r *resource) list(ctx context.Context, all dynamic.NamespaceableResourceInterface, namespace string) ([]*source.Object, error) {
	var from dynamic.ResourceInterface = all
	o := metav1.ListOptions{FieldSelector: r.fields, Limit: page}
	switch {
	case namespace == "":
	case r.kind == "Namespace":
		o.FieldSelector = "metadata.name=" + namespace
	case unscoped[r.kind]:
		return nil, nil
	default:
		from = all.Namespace(namespace)
	}
	var out []*source.Object
	for {
		list, err := from.List(ctx, o)
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			obj, err := r.object(&list.Items[i])
			if err != nil {
				return nil, err
			}
			out = append(out, obj)
		}
		if o.Continue = list.GetContinue(); o.Continue == "" {
			return inOrder(out), nil
		}
	}
}

// Config is how kubectl would find the cluster: a file, else KUBECONFIG, else
// ~/.kube/config, else the pod that this process is in. An empty kubeContext is
// the file's current one.
func Config(file, kubeContext string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = file
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: kubeContext}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("which cluster: %w", err)
	}
	return config, nil
}
