package lower

import (
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/model"
)

// planSecrets makes the credentials of gateways: a certificate with its key
// from tls.crt and tls.key (or cert and key), a bundle of client CAs from
// ca.crt (or cacert) of the same secret or of the one named "<name>-cacert",
// which wins. Workload certificates are the CA's, not ours.
func (l *Lowering) planSecrets() {
	for _, s := range l.v.Secrets {
		if _, ok := firstKey(s, "cacert", "ca.crt"); ok && isCASecret(s.Name) {
			l.plan(SecretType, CredentialName(s.Name), func() proto.Message { return l.bundle(s, CredentialName(s.Name)) })
		}
	}
	for _, s := range l.v.Secrets {
		if _, ok := firstKey(s, "tls.crt", "cert"); ok {
			l.plan(SecretType, CredentialName(s.Name), func() proto.Message { return certificate(s) })
		}
		if _, ok := firstKey(s, "ca.crt", "cacert"); ok {
			name := CAName(CredentialName(s.Name))
			l.plan(SecretType, name, func() proto.Message { return l.bundle(s, name) })
		}
	}
}

func isCASecret(name string) bool {
	const suffix = "-cacert"
	return len(name) > len(suffix) && name[len(name)-len(suffix):] == suffix
}

func firstKey(s *model.Secret, keys ...string) (model.Sensitive, bool) {
	for _, k := range keys {
		if v := s.Data[k]; len(v) > 0 {
			return v, true
		}
	}
	return nil, false
}

func certificate(s *model.Secret) *tlspb.Secret {
	chain, _ := firstKey(s, "tls.crt", "cert")
	key, _ := firstKey(s, "tls.key", "key")
	return &tlspb.Secret{Name: CredentialName(s.Name), Type: &tlspb.Secret_TlsCertificate{
		TlsCertificate: &tlspb.TlsCertificate{CertificateChain: inline(chain), PrivateKey: inline(key)}}}
}

func (l *Lowering) bundle(s *model.Secret, name string) *tlspb.Secret {
	ca, _ := firstKey(s, "ca.crt", "cacert")
	v := &tlspb.CertificateValidationContext{TrustedCa: inline(ca)}
	if crl, ok := firstKey(s, "ca.crl"); ok {
		v.Crl = inline(crl)
	}
	return &tlspb.Secret{Name: name, Type: &tlspb.Secret_ValidationContext{ValidationContext: v}}
}

func inline(b model.Sensitive) *corepb.DataSource {
	return &corepb.DataSource{Specifier: &corepb.DataSource_InlineBytes{InlineBytes: b}}
}
