package lower

import (
	"net/netip"
	"slices"
	"strings"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rawpb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherpb "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Secret names. The first two are the workload's own certificate and the
// bundle of the mesh; the others are made by CredentialName.
const (
	WorkloadSecret = "default"
	RootSecret     = "ROOTCA"
)

// CredentialName is the resource name of a gateway's secret; CAName of the
// bundle that belongs to it.
func CredentialName(secret string) string { return "kubernetes://" + secret }

// CAName is the resource name of the client CA bundle of a credential.
func CAName(credential string) string { return credential + "-cacert" }

// FeatureBridge is the client feature of proxies that carry HTTP/1 requests
// as HTTP/2 streams between sidecars.
const FeatureBridge = "tulle.bridge"

// ALPN tokens. Istio's metadata exchange is not spoken, so that
// istio-peer-exchange is recognised and never offered.
const (
	alpnBridge       = "tulle1"
	alpnIstio        = "istio"
	alpnPeerExchange = "istio-peer-exchange"
	alpnH2           = "h2"
	alpnHTTP11       = "http/1.1"
)

// upstreamTLS sets how the endpoints of c are spoken to.
func (l *Lowering) upstreamTLS(c *model.Cluster, out *clusterpb.Cluster) {
	switch c.TLS.Mode {
	case model.TLSAuto:
		if !l.v.Settings.AutoMTLS || c.External || out.GetType() == clusterpb.Cluster_ORIGINAL_DST {
			return
		}
		out.TransportSocketMatches = []*clusterpb.Cluster_TransportSocketMatch{
			{
				Name:            "tlsMode-istio",
				Match:           &structpb.Struct{Fields: map[string]*structpb.Value{"tlsMode": structpb.NewStringValue("istio")}},
				TransportSocket: tlsSocket(l.meshClient(c)),
			},
			{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: rawSocket()},
		}
	case model.TLSIstioMutual:
		out.TransportSocket = tlsSocket(l.meshClient(c))
	case model.TLSSimple, model.TLSMutual:
		out.TransportSocket = tlsSocket(l.foreignClient(c))
	}
}

// meshClient is mesh mTLS as a client.
func (l *Lowering) meshClient(c *model.Cluster) *tlspb.UpstreamTlsContext {
	alpn := []string{alpnIstio}
	if c.HTTP2 {
		alpn = append(alpn, alpnH2)
	}
	if l.bridge() && !c.Pool.UseClientProtocol {
		alpn = append([]string{alpnBridge}, alpn...)
	}
	sni := c.SNI
	if c.TLS.Mode == model.TLSIstioMutual && c.TLS.SNI != "" {
		sni = c.TLS.SNI
	}
	sans := c.SANs
	if c.TLS.Mode == model.TLSIstioMutual && len(c.TLS.SANs) > 0 {
		sans = c.TLS.SANs
	}
	return &tlspb.UpstreamTlsContext{Sni: sni, CommonTlsContext: l.meshCommon(alpn, exactURIs(sans))}
}

// bridge reports whether the client declared that it carries HTTP/1 as HTTP/2.
func (l *Lowering) bridge() bool { return slices.Contains(l.v.Client.Features, FeatureBridge) }

// ours reports whether the client is a tulle-proxy: it declares features.
func (l *Lowering) ours() bool {
	return slices.ContainsFunc(l.v.Client.Features, func(f string) bool { return strings.HasPrefix(f, "tulle.") })
}

// meshCommon is what both ends of mesh mTLS share: the workload's certificate
// and the mesh's bundle, by SDS.
func (l *Lowering) meshCommon(alpn []string, sans []*tlspb.SubjectAltNameMatcher) *tlspb.CommonTlsContext {
	return &tlspb.CommonTlsContext{
		TlsParams: &tlspb.TlsParameters{
			TlsMinimumProtocolVersion: tlspb.TlsParameters_TLSv1_2,
			TlsMaximumProtocolVersion: tlspb.TlsParameters_TLSv1_3,
		},
		AlpnProtocols:                  alpn,
		TlsCertificateSdsSecretConfigs: []*tlspb.SdsSecretConfig{sds(WorkloadSecret)},
		ValidationContextType:          validation(RootSecret, sans),
	}
}

func sds(name string) *tlspb.SdsSecretConfig {
	return &tlspb.SdsSecretConfig{Name: name, SdsConfig: ads()}
}

func validation(secret string, sans []*tlspb.SubjectAltNameMatcher) *tlspb.CommonTlsContext_CombinedValidationContext {
	return &tlspb.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlspb.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         &tlspb.CertificateValidationContext{MatchTypedSubjectAltNames: sans},
			ValidationContextSdsSecretConfig: sds(secret),
		}}
}

func exactURIs(sans []string) []*tlspb.SubjectAltNameMatcher {
	var out []*tlspb.SubjectAltNameMatcher
	for _, s := range sans {
		out = append(out, sanMatcher(tlspb.SubjectAltNameMatcher_URI, exact(s)))
	}
	return out
}

func sanMatcher(kind tlspb.SubjectAltNameMatcher_SanType, m *matcherpb.StringMatcher) *tlspb.SubjectAltNameMatcher {
	return &tlspb.SubjectAltNameMatcher{SanType: kind, Matcher: m}
}

// anySAN matches a name that the user gave without saying of which kind.
func anySAN(names []string) []*tlspb.SubjectAltNameMatcher {
	var out []*tlspb.SubjectAltNameMatcher
	for _, s := range names {
		switch _, err := netip.ParseAddr(s); {
		case strings.Contains(s, "://"):
			out = append(out, sanMatcher(tlspb.SubjectAltNameMatcher_URI, exact(s)))
		case err == nil:
			out = append(out, sanMatcher(tlspb.SubjectAltNameMatcher_IP_ADDRESS, exact(s)))
		case strings.Contains(s, "@"):
			out = append(out, sanMatcher(tlspb.SubjectAltNameMatcher_EMAIL, exact(s)))
		default:
			out = append(out, sanMatcher(tlspb.SubjectAltNameMatcher_DNS, exact(s)))
		}
	}
	return out
}

// foreignClient is TLS towards a server outside of the mesh's identities: with
// the user's files or secrets, else with the certificates of the system.
func (l *Lowering) foreignClient(c *model.Cluster) *tlspb.UpstreamTlsContext {
	t := c.TLS
	common := &tlspb.CommonTlsContext{}
	if c.HTTP2 {
		common.AlpnProtocols = []string{alpnH2}
	}
	if t.Mode == model.TLSMutual {
		switch {
		case t.CredentialName != "":
			common.TlsCertificateSdsSecretConfigs = []*tlspb.SdsSecretConfig{sds(CredentialName(t.CredentialName))}
		case t.Certificate != "":
			common.TlsCertificates = []*tlspb.TlsCertificate{fileCertificate(t.Certificate, t.Key)}
		default:
			l.notice(model.Error, model.Invalid, t.Origin, "tls mode MUTUAL needs a client certificate; none is shown to the server")
		}
	}
	sans := anySAN(t.SANs)
	switch {
	case t.InsecureSkipVerify:
	case t.CA != "":
		common.ValidationContextType = fixedValidation(&tlspb.CertificateValidationContext{
			TrustedCa: inline(model.Sensitive(t.CA)), MatchTypedSubjectAltNames: sans})
	case t.CredentialName != "":
		common.ValidationContextType = validation(CAName(CredentialName(t.CredentialName)), sans)
	case t.CACertificates != "":
		v := &tlspb.CertificateValidationContext{TrustedCa: file(t.CACertificates), MatchTypedSubjectAltNames: sans}
		if t.CRL != "" {
			v.Crl = file(t.CRL)
		}
		common.ValidationContextType = fixedValidation(v)
	default:
		common.ValidationContextType = fixedValidation(&tlspb.CertificateValidationContext{
			SystemRootCerts: &tlspb.CertificateValidationContext_SystemRootCerts{}, MatchTypedSubjectAltNames: sans})
	}
	return &tlspb.UpstreamTlsContext{Sni: t.SNI, CommonTlsContext: common}
}

func fixedValidation(v *tlspb.CertificateValidationContext) *tlspb.CommonTlsContext_ValidationContext {
	return &tlspb.CommonTlsContext_ValidationContext{ValidationContext: v}
}

func fileCertificate(chain, key string) *tlspb.TlsCertificate {
	return &tlspb.TlsCertificate{CertificateChain: file(chain), PrivateKey: file(key)}
}

func file(name string) *corepb.DataSource {
	return &corepb.DataSource{Specifier: &corepb.DataSource_Filename{Filename: name}}
}

// meshServer is mesh mTLS as a server. Clients must show a certificate of the
// mesh's trust domain or an alias of it.
func (l *Lowering) meshServer(alpn []string) *tlspb.DownstreamTlsContext {
	var sans []*tlspb.SubjectAltNameMatcher
	for _, td := range append([]string{l.v.Settings.TrustDomain}, l.v.Settings.TrustDomainAliases...) {
		if td == "" {
			continue
		}
		m := &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Prefix{Prefix: "spiffe://" + td + "/"}}
		sans = append(sans, sanMatcher(tlspb.SubjectAltNameMatcher_URI, m))
	}
	return &tlspb.DownstreamTlsContext{
		CommonTlsContext:         l.meshCommon(alpn, sans),
		RequireClientCertificate: yes(),
	}
}

// gatewayTLS opens TLS at a gateway; nil when s does not open it.
func (l *Lowering) gatewayTLS(s *model.GatewayServer) *tlspb.DownstreamTlsContext {
	t := s.TLS
	var alpn []string
	if s.Table != "" {
		alpn = []string{alpnH2, alpnHTTP11}
	}
	common := &tlspb.CommonTlsContext{
		AlpnProtocols: alpn,
		TlsParams: &tlspb.TlsParameters{
			TlsMinimumProtocolVersion: l.tlsVersion(t, t.MinVersion, tlspb.TlsParameters_TLSv1_2),
			TlsMaximumProtocolVersion: l.tlsVersion(t, t.MaxVersion, tlspb.TlsParameters_TLS_AUTO),
			CipherSuites:              t.CipherSuites,
		},
	}
	out := &tlspb.DownstreamTlsContext{CommonTlsContext: common}
	if t.Mode == model.ServerIstioMutual {
		mesh := l.meshServer(alpn)
		mesh.CommonTlsContext.TlsParams = common.TlsParams
		return mesh
	}
	for _, name := range s.Secrets {
		common.TlsCertificateSdsSecretConfigs = append(common.TlsCertificateSdsSecretConfigs, sds(name))
	}
	if len(s.Secrets) == 0 && t.Certificate != "" {
		common.TlsCertificates = append(common.TlsCertificates, fileCertificate(t.Certificate, t.Key))
	}
	for _, c := range t.More {
		common.TlsCertificates = append(common.TlsCertificates, fileCertificate(c.Certificate, c.Key))
	}
	l.clientValidation(s, common)
	if t.Mode == model.ServerMutual {
		out.RequireClientCertificate = yes()
	}
	return out
}

// clientValidation says how a gateway checks the certificates of its clients.
func (l *Lowering) clientValidation(s *model.GatewayServer, common *tlspb.CommonTlsContext) {
	t := s.TLS
	if t.Mode != model.ServerMutual && t.Mode != model.ServerOptionalMutual {
		return
	}
	check := &tlspb.CertificateValidationContext{
		MatchTypedSubjectAltNames: anySAN(t.SANs),
		VerifyCertificateHash:     t.CertificateHashes,
		VerifyCertificateSpki:     t.KeyHashes,
	}
	if t.Mode == model.ServerOptionalMutual && t.InsecureSkip {
		check.TrustChainVerification = tlspb.CertificateValidationContext_ACCEPT_UNTRUSTED
	}
	if t.CA != "" {
		check.TrustedCa = inline(model.Sensitive(t.CA))
		common.ValidationContextType = fixedValidation(check)
		return
	}
	if len(s.Secrets) > 0 || t.CACredential != "" {
		name := CredentialName(t.CACredential)
		if t.CACredential == "" {
			name = s.Secrets[0]
		}
		common.ValidationContextType = &tlspb.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlspb.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         check,
				ValidationContextSdsSecretConfig: sds(CAName(name)),
			}}
		return
	}
	if t.CACertificates != "" {
		check.TrustedCa = file(t.CACertificates)
	}
	if t.CRL != "" {
		check.Crl = file(t.CRL)
	}
	common.ValidationContextType = fixedValidation(check)
}

func (l *Lowering) tlsVersion(t *model.ServerTLS, v string, otherwise tlspb.TlsParameters_TlsProtocol) tlspb.TlsParameters_TlsProtocol {
	switch v {
	case "":
		return otherwise
	case "1.0":
		return tlspb.TlsParameters_TLSv1_0
	case "1.1":
		return tlspb.TlsParameters_TLSv1_1
	case "1.2":
		return tlspb.TlsParameters_TLSv1_2
	case "1.3":
		return tlspb.TlsParameters_TLSv1_3
	}
	l.notice(model.Error, model.Invalid, t.Origin, "TLS version "+v+" is not one of 1.0 to 1.3")
	return otherwise
}

func tlsSocket(m proto.Message) *corepb.TransportSocket {
	return &corepb.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corepb.TransportSocket_TypedConfig{TypedConfig: pack(m)},
	}
}

func rawSocket() *corepb.TransportSocket {
	return &corepb.TransportSocket{
		Name:       "envoy.transport_sockets.raw_buffer",
		ConfigType: &corepb.TransportSocket_TypedConfig{TypedConfig: pack(&rawpb.RawBuffer{})},
	}
}
