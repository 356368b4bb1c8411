package root

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/kube/objects"
)

// Names of Istio's contract.
const (
	Plugged  = "cacerts"         // the Secret with the user's own authority
	SelfMade = "istio-ca-secret" // the Secret with ours
	madeType = "istio.io/ca-root"
)

// Store is where an authority's material is kept.
type Store struct {
	Client      corev1client.CoreV1Interface
	Namespace   string
	TrustDomain string
}

// Load reads the material: cacerts if there is one, else istio-ca-secret, which
// is made when it is absent. Of several first starts at once, all get the same.
// What cannot be read is never replaced.
func (s *Store) Load(ctx context.Context) (ca.Material, error) {
	secrets := s.Client.Secrets(s.Namespace)
	for _, name := range []string{Plugged, SelfMade} {
		x, err := secrets.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return ca.Material{}, fmt.Errorf("the authority's Secret %s/%s: %w", s.Namespace, name, err)
		}
		return s.checked(x)
	}
	m, err := ca.NewMaterial(s.TrustDomain)
	if err != nil {
		return m, err
	}
	made := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SelfMade, Namespace: s.Namespace},
		Type:       madeType,
		Data: map[string][]byte{
			"ca-cert.pem": m.Certificate, "ca-key.pem": m.Key, "root-cert.pem": m.Roots, "cert-chain.pem": {}, "key.pem": {},
		},
	}
	_, err = secrets.Create(ctx, made, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // another replica was faster
		if made, err = secrets.Get(ctx, SelfMade, metav1.GetOptions{}); err == nil {
			return s.checked(made)
		}
	}
	if err != nil {
		return ca.Material{}, fmt.Errorf("the authority's Secret %s/%s: %w", s.Namespace, SelfMade, err)
	}
	return m, nil
}

// checked is the material of a Secret that fits together.
func (s *Store) checked(x *corev1.Secret) (ca.Material, error) {
	m := material(x.Data)
	if _, err := ca.New(m, ca.Options{}); err != nil {
		return m, fmt.Errorf("the authority's Secret %s/%s: %w", s.Namespace, x.Name, err)
	}
	return m, nil
}

// material in Istio's own keys, or in those of a TLS secret.
func material(data map[string][]byte) ca.Material {
	m := ca.Material{Certificate: data["ca-cert.pem"], Key: data["ca-key.pem"], Chain: data["cert-chain.pem"], Roots: data["root-cert.pem"]}
	if len(m.Certificate) == 0 && len(data["tls.crt"]) > 0 {
		m = ca.Material{Certificate: data["tls.crt"], Key: data["tls.key"], Roots: data["ca.crt"]}
	}
	if len(m.Roots) == 0 { // self-signed, as Istio keeps it
		m.Roots = m.Certificate
	}
	return m
}

// Watch calls changed with the material after every change of the Secrets,
// until ctx ends. What does not fit together is told and left alone.
func (s *Store) Watch(ctx context.Context, changed func(ca.Material), tell func(error)) error {
	flag := objects.NewFlag()
	for _, name := range []string{Plugged, SelfMade} {
		k := objects.Kind{Client: s.Client.RESTClient(), Resource: "secrets", Namespace: s.Namespace, Name: name, Tell: tell}
		if _, err := objects.Follow(ctx, k, &corev1.Secret{}, nil, flag.Raise); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-flag:
		}
		switch m, err := s.Load(ctx); {
		case ctx.Err() != nil:
		case err != nil:
			tell(err)
		default:
			changed(m)
		}
	}
}
