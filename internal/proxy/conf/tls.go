package conf

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// commonTLS is what both ends of TLS share.
type commonTLS struct {
	certificates []string
	validation   string
	sans         []StringMatch
	pins         Pins
	alpn         []string
	min, max     uint16
	suites       []uint16
}

// serverTLS builds a DownstreamTlsContext.
func (b *builder) serverTLS(m *wire.DownstreamTlsContext) (*ServerTLS, error) {
	if m.CommonTlsContext == nil {
		return nil, refuse("common_tls_context", "missing")
	}
	c, err := b.commonTLS(m.CommonTlsContext)
	if err != nil {
		return nil, in(err, "common_tls_context")
	}
	if len(c.certificates) == 0 {
		return nil, refuse("common_tls_context", "a server needs a certificate")
	}
	if or(m.RequireSni, false) {
		return nil, refuse("require_sni", "not supported")
	}
	s := &ServerTLS{Certificates: c.certificates, Validation: c.validation, RequireClient: or(m.RequireClientCertificate, false),
		SANs: c.sans, Pins: c.pins, ALPN: c.alpn, MinVersion: c.min, MaxVersion: c.max, CipherSuites: c.suites,
		NoTickets: or(m.DisableStatelessSessionResumption, false)}
	if s.RequireClient && s.Validation == "" {
		return nil, refuse("common_tls_context", "client certificates are required, but there is nothing to verify them by")
	}
	return s, nil
}

// clientTLS builds an UpstreamTlsContext.
func (b *builder) clientTLS(m *wire.UpstreamTlsContext) (*ClientTLS, error) {
	if m.CommonTlsContext == nil {
		return nil, refuse("common_tls_context", "missing")
	}
	c, err := b.commonTLS(m.CommonTlsContext)
	if err != nil {
		return nil, in(err, "common_tls_context")
	}
	if len(c.certificates) > 1 {
		return nil, refuse("common_tls_context", "a client shows one certificate at most")
	}
	if m.Sni != "" && !hostName(m.Sni) {
		return nil, refuse("sni", "%q is no server name", m.Sni)
	}
	t := &ClientTLS{Validation: c.validation, SANs: c.sans, Pins: c.pins, SNI: strings.ToLower(m.Sni), ALPN: c.alpn,
		MinVersion: c.min, MaxVersion: c.max, CipherSuites: c.suites, AutoSAN: m.AutoSniSanValidation,
		Mesh: slices.Contains(c.alpn, "istio")}
	if len(c.certificates) == 1 {
		t.Certificate = c.certificates[0]
	}
	if (len(t.SANs) > 0 || t.AutoSAN || !t.Pins.Empty()) && t.Validation == "" {
		return nil, refuse("common_tls_context", "names are to be verified, but there is nothing to verify certificates by")
	}
	return t, nil
}

func (b *builder) commonTLS(m *wire.CommonTlsContext) (c commonTLS, err error) {
	for i, p := range m.AlpnProtocols {
		if p == "" || len(p) > 255 {
			return c, inIndex(refuse("", "%q is no protocol", p), "alpn_protocols", i)
		}
		c.alpn = append(c.alpn, p)
	}
	if err := c.params(m.TlsParams); err != nil {
		return c, in(err, "tls_params")
	}
	for i, s := range m.TlsCertificateSdsSecretConfigs {
		n, err := sdsName(s)
		if err != nil {
			return c, inIndex(err, "tls_certificate_sds_secret_configs", i)
		}
		c.certificates = append(c.certificates, n)
	}
	for i, t := range m.TlsCertificates {
		n, err := fileCertificate(t)
		if err != nil {
			return c, inIndex(err, "tls_certificates", i)
		}
		c.certificates = append(c.certificates, n)
	}
	switch {
	case m.ValidationContext != nil:
		return c, in(c.validate(b, m.ValidationContext, ""), "validation_context")
	case m.ValidationContextSdsSecretConfig != nil:
		c.validation, err = sdsName(m.ValidationContextSdsSecretConfig)
		return c, in(err, "validation_context_sds_secret_config")
	case m.CombinedValidationContext != nil:
		v := m.CombinedValidationContext
		name, err := sdsName(v.ValidationContextSdsSecretConfig)
		if err != nil {
			return c, in(err, "combined_validation_context.validation_context_sds_secret_config")
		}
		if v.DefaultValidationContext == nil {
			c.validation = name
			return c, nil
		}
		return c, in(c.validate(b, v.DefaultValidationContext, name), "combined_validation_context.default_validation_context")
	}
	return c, nil
}

// validate reads a validation context; secret is the bundle by SDS, if any.
func (c *commonTLS) validate(b *builder, m *wire.CertificateValidationContext, secret string) error {
	c.validation = secret
	switch {
	case m.Crl != nil && (m.TrustedCa == nil || m.TrustedCa.Filename == nil):
		return refuse("crl", "only supported in secrets and beside trusted_ca.filename")
	case secret != "" && (m.TrustedCa != nil || m.SystemRootCerts != nil):
		return refuse("trusted_ca", "the secret brings one too")
	case m.TrustedCa != nil && m.SystemRootCerts != nil:
		return refuse("system_root_certs", "trusted_ca is set too")
	case m.SystemRootCerts != nil:
		c.validation = SystemRoots
	case m.TrustedCa != nil:
		name, err := trustedCA(m.TrustedCa, m.Crl)
		if err != nil {
			return err
		}
		c.validation = name
	}
	if err := c.pins.read(m); err != nil {
		return err
	}
	for i, s := range m.MatchTypedSubjectAltNames {
		if s.Matcher == nil {
			return inIndex(refuse("matcher", "missing"), "match_typed_subject_alt_names", i)
		}
		sm, err := b.stringMatch(s.Matcher)
		if err != nil {
			return inIndex(in(err, "matcher"), "match_typed_subject_alt_names", i)
		}
		switch s.SanType {
		case wire.SubjectAltNameMatcherSanTypeUri:
			sm.SAN = SANURI
		case wire.SubjectAltNameMatcherSanTypeDns:
			sm.SAN = SANDNS
		case wire.SubjectAltNameMatcherSanTypeIpAddress:
			sm.SAN = SANIP
		case wire.SubjectAltNameMatcherSanTypeEmail:
			sm.SAN = SANEmail
		default:
			return inIndex(refuse("san_type", "%d is not supported", s.SanType), "match_typed_subject_alt_names", i)
		}
		c.sans = append(c.sans, sm)
	}
	if !c.pins.Empty() && c.validation == "" {
		return refuse("verify_certificate_hash", "there is nothing to verify certificates by")
	}
	if len(c.sans) > 0 && c.validation == "" {
		return refuse("match_typed_subject_alt_names", "there is nothing to verify certificates by")
	}
	return nil
}

// trustedCA names a bundle that stands in files or in the configuration.
func trustedCA(ca, crl *wire.DataSource) (string, error) {
	if ca.Filename == nil {
		text, err := pem(ca)
		return "file-inline:" + string(text), in(err, "trusted_ca")
	}
	name, err := fileName(ca)
	if err != nil {
		return "", in(err, "trusted_ca")
	}
	if crl == nil {
		return "file-root:" + name, nil
	}
	list, err := fileName(crl)
	return "file-root:" + name + "~" + list, in(err, "crl")
}

func (p *Pins) read(m *wire.CertificateValidationContext) error {
	for i, h := range m.VerifyCertificateHash {
		b, err := hex.DecodeString(strings.ReplaceAll(h, ":", ""))
		if err != nil || len(b) != 32 {
			return inIndex(refuse("", "%q is no SHA-256 in hex", h), "verify_certificate_hash", i)
		}
		p.Certificates = append(p.Certificates, [32]byte(b))
	}
	for i, h := range m.VerifyCertificateSpki {
		b, err := base64.StdEncoding.DecodeString(h)
		if err != nil || len(b) != 32 {
			return inIndex(refuse("", "%q is no SHA-256 in base64", h), "verify_certificate_spki", i)
		}
		p.Keys = append(p.Keys, [32]byte(b))
	}
	return nil
}

// versions by Envoy's number; TLS_AUTO is 0.
var versions = map[wire.TlsParametersTlsProtocol]uint16{
	wire.TlsParametersTlsProtocolTLSv10: tls.VersionTLS10,
	wire.TlsParametersTlsProtocolTLSv11: tls.VersionTLS11,
	wire.TlsParametersTlsProtocolTLSv12: tls.VersionTLS12,
	wire.TlsParametersTlsProtocolTLSv13: tls.VersionTLS13,
}

func (c *commonTLS) params(m *wire.TlsParameters) error {
	if m == nil {
		return nil
	}
	c.min, c.max = versions[m.TlsMinimumProtocolVersion], versions[m.TlsMaximumProtocolVersion]
	if c.max != 0 && c.min > c.max {
		return refuse("tls_minimum_protocol_version", "above the maximum")
	}
	for i, name := range m.CipherSuites {
		id, ok := suites[name]
		if !ok {
			return inIndex(refuse("", "%q is not known", name), "cipher_suites", i)
		}
		c.suites = append(c.suites, id)
	}
	return nil
}

// suites by BoringSSL's name. Suites without forward secrecy that crypto/tls
// calls insecure are not among them.
var suites = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-ECDSA-AES128-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	"ECDHE-RSA-AES128-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	"ECDHE-ECDSA-AES256-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
	"ECDHE-RSA-AES256-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
}

func sdsName(m *wire.SdsSecretConfig) (string, error) {
	if m == nil || m.Name == "" {
		return "", refuse("name", "empty")
	}
	if strings.HasPrefix(m.Name, "file-") && m.SdsConfig == nil {
		return m.Name, nil
	}
	return m.Name, adsOnly(m.SdsConfig, "sds_config")
}

// fileName is the file of a DataSource.
func fileName(m *wire.DataSource) (string, error) {
	if m == nil || m.Filename == nil || *m.Filename == "" {
		return "", refuse("", "only files and secrets are supported")
	}
	if !strings.HasPrefix(*m.Filename, "/") || strings.Contains(*m.Filename, "~") {
		return "", refuse("filename", "%q is no absolute path without a tilde", *m.Filename)
	}
	return *m.Filename, nil
}

func fileCertificate(m *wire.TlsCertificate) (string, error) {
	chain, err := fileName(m.CertificateChain)
	if err != nil {
		return "", in(err, "certificate_chain")
	}
	key, err := fileName(m.PrivateKey)
	if err != nil {
		return "", in(err, "private_key")
	}
	return "file-cert:" + chain + "~" + key, nil
}

// secret builds a Secret. The key is only ever inline.
func (b *builder) secret(m *wire.Secret) (*Secret, error) {
	s := &Secret{Name: m.Name}
	var err error
	switch {
	case m.Name == "":
		return nil, refuse("name", "empty")
	case m.TlsCertificate != nil:
		if s.Chain, err = pem(m.TlsCertificate.CertificateChain); err != nil {
			return nil, in(err, "tls_certificate.certificate_chain")
		}
		if s.Key, err = pem(m.TlsCertificate.PrivateKey); err != nil {
			return nil, in(err, "tls_certificate.private_key")
		}
	case m.ValidationContext != nil:
		v := m.ValidationContext
		if v.SystemRootCerts != nil || len(v.MatchTypedSubjectAltNames)+len(v.VerifyCertificateHash)+len(v.VerifyCertificateSpki) > 0 {
			return nil, refuse("validation_context", "only trusted_ca and crl are supported in a secret")
		}
		if s.CA, err = pem(v.TrustedCa); err != nil {
			return nil, in(err, "validation_context.trusted_ca")
		}
		if v.Crl != nil {
			if s.CRL, err = pem(v.Crl); err != nil {
				return nil, in(err, "validation_context.crl")
			}
		}
	default:
		return nil, refuse("", "neither a certificate nor a validation context")
	}
	return s, nil
}

func pem(m *wire.DataSource) ([]byte, error) {
	if m == nil {
		return nil, refuse("", "missing")
	}
	b, err := inline(m)
	if err == nil && len(b) == 0 {
		err = refuse("", "empty")
	}
	return b, err
}
