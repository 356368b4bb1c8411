package link

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// secrets collects what a gateway's servers name, from its own namespace.
type secrets struct {
	m    *Mesh
	ns   string
	near bool // also from the namespace of the Gateway that names them
	have map[string]*model.Secret
}

func newSecrets(m *Mesh, c *model.Client) *secrets {
	return &secrets{m: m, ns: c.Namespace, near: c.Assumed, have: map[string]*model.Secret{}}
}

// space is where the secret of a Gateway's server is looked for.
func (s *secrets) space(name, gateway string) string {
	if s.near && s.m.secret(s.ns, name) == nil {
		return gateway
	}
	return s.ns
}

func (s *secrets) list() []*model.Secret {
	var out []*model.Secret
	for _, k := range sortedKeys(s.have) {
		out = append(out, s.have[k])
	}
	return out
}

// of returns the resource names of a server's certificates, or why they cannot
// be used. Servers with files name none here. gateway is the namespace of the
// server's Gateway.
func (s *secrets) of(t *model.ServerTLS, gateway string) (names []string, why string) {
	for _, g := range t.Granted {
		x, why := s.m.credential(g.Namespace, g.Name)
		if why != "" {
			return nil, why
		}
		c := *x
		c.Name = g.Namespace + "/" + g.Name // as the gateway's view has it: no name of its own namespace
		s.have[c.Name] = &c
		names = append(names, "kubernetes://"+c.Name)
	}
	if len(t.Granted) > 0 {
		return names, ""
	}
	mutual := t.Mode == model.ServerMutual || t.Mode == model.ServerOptionalMutual
	bundle := false
	if mutual && t.CACredential != "" {
		name := strings.TrimPrefix(t.CACredential, "kubernetes://")
		ca, why := s.m.caSecret(s.space(name, gateway), name)
		if why != "" {
			return nil, why
		}
		s.have[name], bundle = ca, true
	}
	if len(t.CredentialNames) == 0 {
		if (t.Certificate == "" || t.Key == "") && len(t.More) == 0 {
			return nil, "it has neither credentialName nor serverCertificate and privateKey"
		}
		return nil, ""
	}
	for _, name := range t.CredentialNames {
		name = strings.TrimPrefix(name, "kubernetes://")
		ns := s.space(name, gateway)
		x, why := s.m.credential(ns, name)
		if why != "" {
			return nil, why
		}
		s.have[name] = x
		names = append(names, "kubernetes://"+name)
		if mutual && !bundle {
			ca, why := s.m.bundle(ns, name)
			if why != "" {
				return nil, why
			}
			s.have[ca.Name] = ca
			bundle = true
		}
	}
	return names, ""
}

// KeyPair finds certificate and key in a secret, in the spellings that Istio
// takes: tls.crt and tls.key, or cert and key. nil: not there.
func KeyPair(s *model.Secret) (cert, key model.Sensitive) {
	if c, k := s.Data["tls.crt"], s.Data["tls.key"]; len(c) > 0 || len(k) > 0 {
		return c, k
	}
	return s.Data["cert"], s.Data["key"]
}

// Bundle finds the CA certificates in a secret: ca.crt or cacert.
func Bundle(s *model.Secret) model.Sensitive {
	if c := s.Data["ca.crt"]; len(c) > 0 {
		return c
	}
	return s.Data["cacert"]
}

// secret by name, the youngest of that name; nil: none.
func (m *Mesh) secret(ns, name string) *model.Secret {
	l := m.facts.secrets.get(model.Ref{Namespace: ns, Name: name})
	if len(l) == 0 {
		return nil
	}
	return l[len(l)-1]
}

// credential finds a usable key pair, or says why there is none.
func (m *Mesh) credential(ns, name string) (*model.Secret, string) {
	x := m.secret(ns, name)
	if x == nil {
		return nil, m.noSecret(ns, name)
	}
	cert, key := KeyPair(x)
	if len(cert) == 0 || len(key) == 0 {
		return nil, fmt.Sprintf("Secret %s/%s has no certificate and key (tls.crt and tls.key, or cert and key; it has %s)", ns, name, keys(x))
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Sprintf("Secret %s/%s: %s", ns, name, strings.TrimPrefix(err.Error(), "tls: "))
	}
	return x, ""
}

// noSecret says that a secret is missing, and where another of its name is.
func (m *Mesh) noSecret(ns, name string) string {
	var other []string
	for _, x := range m.facts.secretName.get(name) {
		other = append(other, x.Namespace)
	}
	t := fmt.Sprintf("Secret %s/%s is not there", ns, name)
	if len(other) > 0 {
		slices.Sort(other)
		t += fmt.Sprintf("; one of that name is in namespace %s, but secrets are read in the gateway's own", strings.Join(slices.Compact(other), ", "))
	}
	return t
}

func keys(x *model.Secret) string {
	if len(x.Data) == 0 {
		return "nothing"
	}
	return strings.Join(sortedKeys(x.Data), ", ")
}

// caSecret finds a secret with CA certificates, or says why there is none.
func (m *Mesh) caSecret(ns, name string) (*model.Secret, string) {
	x := m.secret(ns, name)
	if x == nil {
		return nil, m.noSecret(ns, name)
	}
	if ca := Bundle(x); len(ca) == 0 || !x509.NewCertPool().AppendCertsFromPEM(ca) {
		return nil, fmt.Sprintf("Secret %s/%s: ca.crt holds no certificate", ns, name)
	}
	return x, ""
}

// bundle finds the CA certificates that go with a credential: in the secret
// itself, or in the one with "-cacert" behind its name, which wins.
func (m *Mesh) bundle(ns, name string) (*model.Secret, string) {
	x := m.secret(ns, name+"-cacert")
	if x == nil {
		x = m.secret(ns, name)
	}
	ca := Bundle(x)
	if len(ca) == 0 {
		return nil, fmt.Sprintf("mutual TLS needs CA certificates: Secret %s/%s has no ca.crt and there is no Secret %s-cacert", ns, name, name)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(ca) {
		return nil, fmt.Sprintf("Secret %s/%s: ca.crt holds no certificate", ns, x.Name)
	}
	return x, ""
}
