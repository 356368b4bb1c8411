package control

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// serverCertificate is the control plane's own, renewed when it is used after
// half of its life or when the authority has another key. Safe for concurrent
// use.
type serverCertificate struct {
	authority *ca.Authority
	id        identity.ID
	names     []string

	mu    sync.Mutex
	cert  *tls.Certificate
	renew time.Time
}

func newServerCertificate(p *Plane) *serverCertificate {
	return &serverCertificate{
		authority: p.ca,
		id:        identity.ID{TrustDomain: p.settings.TrustDomain, Namespace: p.settings.RootNamespace, Account: "tulle"},
		names:     append(slices.Clone(serverNames), p.o.Names...),
	}
}

func (s *serverCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert != nil && time.Now().Before(s.renew) && s.authority.Signs(s.cert.Leaf) {
		return s.cert, nil
	}
	chain, key, err := s.authority.IssueServer(s.id, s.names, serverAddrs)
	if err != nil {
		return nil, fmt.Errorf("certificate of the control plane: %w", err)
	}
	cert, err := tls.X509KeyPair(chain.Leaf(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the control plane: %w", err)
	}
	s.cert, s.renew = &cert, identity.RenewAt(chain.NotBefore, chain.NotAfter, rand.Float64())
	return s.cert, nil
}

// keyPair is a workload certificate with its key, made here for a client that
// takes both from SDS (Envoy).
type keyPair struct {
	chain, key []byte
	renew      time.Time
}

func issue(a *ca.Authority, id identity.ID) (*keyPair, error) {
	chain, key, err := a.Issue(id, 0)
	if err != nil {
		return nil, err
	}
	return &keyPair{chain.Leaf(), key, identity.RenewAt(chain.NotBefore, chain.NotAfter, rand.Float64())}, nil
}
