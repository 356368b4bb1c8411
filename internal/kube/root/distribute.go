package root

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/tulle-mesh/tulle/internal/kube/objects"
)

// ConfigMap holds the roots, under Key, in every namespace.
const (
	ConfigMap = "istio-ca-root-cert"
	Key       = "root-cert.pem"
)

// without are namespaces that run nothing of the mesh.
var without = []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, "local-path-storage"}

// again is how long after a failure it is tried again.
const again = 2 * time.Second

// Distributor writes the roots into every namespace.
type Distributor struct {
	Client corev1client.CoreV1Interface
	Roots  func() []byte // PEM, as they are now
	// Changed is raised when Roots gives something else.
	Changed objects.Flag
	Tell    func(error)
}

// Run writes what is missing or differs, until ctx ends.
func (d *Distributor) Run(ctx context.Context) error {
	client := d.Client.RESTClient()
	namespaces, err := objects.Follow(ctx, objects.Kind{Client: client, Resource: "namespaces", Tell: d.Tell}, &corev1.Namespace{}, nil, d.Changed.Raise)
	if err != nil {
		return err
	}
	maps, err := objects.Follow(ctx, objects.Kind{Client: client, Resource: "configmaps", Name: ConfigMap, Tell: d.Tell}, &corev1.ConfigMap{}, nil, d.Changed.Raise)
	if err != nil {
		return err
	}
	if err := namespaces.Wait(ctx); err != nil {
		return err
	}
	if err := maps.Wait(ctx); err != nil {
		return err
	}
	for d.Changed.Raise(); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.Changed:
		}
		failed := false
		for _, ns := range namespaces.All() {
			if slices.Contains(without, ns.Name) || ns.DeletionTimestamp != nil {
				continue
			}
			have, _ := maps.Get(ns.Name, ConfigMap)
			if err := d.write(ctx, ns.Name, have); err != nil && ctx.Err() == nil {
				failed = true
				d.Tell(err)
			}
		}
		if failed {
			time.AfterFunc(again, d.Changed.Raise)
		}
	}
}

// write one, if it is not as it should be. have may be nil.
func (d *Distributor) write(ctx context.Context, namespace string, have *corev1.ConfigMap) error {
	want := string(d.Roots())
	client := d.Client.ConfigMaps(namespace)
	var err error
	switch {
	case have == nil:
		_, err = client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: ConfigMap, Namespace: namespace, Labels: map[string]string{"istio.io/config": "true"}},
			Data:       map[string]string{Key: want},
		}, metav1.CreateOptions{})
	case have.Data[Key] != want:
		x := have.DeepCopy()
		if x.Data == nil {
			x.Data = map[string]string{}
		}
		x.Data[Key] = want
		_, err = client.Update(ctx, x, metav1.UpdateOptions{})
	}
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsConflict(err): // what it is now we hear
		return nil
	case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause): // the namespace goes
		return nil
	}
	return fmt.Errorf("the roots in namespace %s: %w", namespace, err)
}
