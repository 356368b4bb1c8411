package lower

import (
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// WorkloadCertificate is the secret "default": a PEM chain, leaf first, and its
// PEM key.
func WorkloadCertificate(chain, key []byte) Resource {
	return Resource{Type: SecretType, Name: WorkloadSecret, Body: encode(&tlspb.Secret{
		Name: WorkloadSecret,
		Type: &tlspb.Secret_TlsCertificate{TlsCertificate: &tlspb.TlsCertificate{
			CertificateChain: inline(chain), PrivateKey: inline(key)}},
	})}
}

// Roots is the secret "ROOTCA": the PEM bundle of the mesh's roots.
func Roots(bundle []byte) Resource {
	return Resource{Type: SecretType, Name: RootSecret, Body: encode(&tlspb.Secret{
		Name: RootSecret,
		Type: &tlspb.Secret_ValidationContext{ValidationContext: &tlspb.CertificateValidationContext{TrustedCa: inline(bundle)}},
	})}
}
