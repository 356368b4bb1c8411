package istio

import (
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/model"
)

func readGateway(r *reading, m proto.Message, out *model.Fragment) {
	gw := m.(*networking.Gateway)
	g := &model.Gateway{
		Name: r.Object.Name, Namespace: r.Object.Namespace,
		Selector: r.labels("spec.selector", gw.Selector), Origin: r.at(""),
	}
	if len(gw.Servers) == 0 && !r.damaged("spec.servers") {
		r.Invalid("spec.servers", "at least one server is needed")
	}
	names := make(map[string]bool)
	for i, s := range gw.Servers {
		at := index("spec.servers", i)
		server := r.server(at, s)
		if n := server.Port.Name; n != "" {
			if names[n] {
				r.Invalid(at+".port.name", "%q is the name of another server's port", clip(n))
			}
			names[n] = true
		}
		g.Servers = append(g.Servers, server)
	}
	out.Gateways = append(out.Gateways, g)
}

// gatewayProtocols of a server's port.
var gatewayProtocols = map[string]model.Protocol{
	"HTTP": model.HTTP, "HTTP2": model.HTTP2, "GRPC": model.GRPC, "GRPC-WEB": model.HTTP2,
	"HTTPS": model.HTTPS, "TLS": model.TLS, "TCP": model.TCP, "MONGO": model.TCP,
}

func (r *reading) server(path string, s *networking.Server) model.Server {
	out := model.Server{Name: s.Name, Bind: s.Bind, Origin: r.at(path)}
	protocol := ""
	if s.Port == nil {
		if !r.damaged(path + ".port") {
			r.Invalid(path+".port", "is missing")
		}
	} else {
		protocol = strings.ToUpper(s.Port.Protocol)
		out.Port = r.serverPort(path+".port", s.Port, protocol)
	}
	if s.Bind != "" {
		if _, err := netip.ParseAddr(s.Bind); err != nil && !strings.HasPrefix(s.Bind, "unix://") && !strings.HasPrefix(s.Bind, "@") {
			r.Invalid(path+".bind", "%q is not an IP address", clip(s.Bind))
		} else if err != nil {
			r.Unsupported(path+".bind", "unix sockets are not opened by gateways yet")
		}
	}
	if len(s.Hosts) == 0 && !r.damaged(path+".hosts") {
		r.Invalid(path+".hosts", "at least one host is needed (\"*\" for every host)")
	}
	for i, h := range s.Hosts {
		out.Hosts = append(out.Hosts, r.serverHost(index(path+".hosts", i), h))
	}
	if s.Tls != nil {
		out.Redirect = s.Tls.HttpsRedirect
	}
	needsTLS := protocol == "HTTPS" || protocol == "TLS"
	switch {
	case needsTLS && s.Tls == nil && !r.damaged(path+".tls"):
		r.Invalid(path+".tls", "a server with protocol %s needs tls", protocol)
	case !needsTLS && s.Tls != nil && protocol != "" && !onlyRedirect(s.Tls):
		r.Invalid(path+".tls", "tls with protocol %s: only httpsRedirect can stand here (write HTTPS or TLS to open TLS)", protocol)
	case needsTLS && s.Tls != nil:
		if s.Tls.HttpsRedirect {
			r.Invalid(path+".tls.httpsRedirect", "redirects plain HTTP; it cannot stand with protocol %s", protocol)
		}
		out.TLS = r.serverTLS(path+".tls", s.Tls)
	}
	return out
}

func onlyRedirect(t *networking.ServerTLSSettings) bool {
	rest := proto.Clone(t).(*networking.ServerTLSSettings)
	rest.HttpsRedirect = false
	return proto.Size(rest) == 0
}

func (r *reading) serverPort(path string, p *networking.Port, protocol string) model.Port {
	out := model.Port{Number: r.port(path+".number", p.Number, false), Name: p.Name}
	kind, ok := gatewayProtocols[protocol]
	switch {
	case p.Protocol == "":
		r.Invalid(path+".protocol", "is missing")
	case !ok:
		r.Invalid(path+".protocol", "%q is not one of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS", clip(p.Protocol))
	case protocol == "GRPC-WEB":
		r.Unsupported(path+".protocol", "gRPC-Web is not translated yet: taken as HTTP")
	case protocol == "MONGO":
		r.Unsupported(path+".protocol", "the MongoDB protocol is not read: taken as TCP")
	}
	out.Protocol = kind
	if p.Name == "" {
		r.Invalid(path+".name", "is missing")
	}
	return out
}

// serverHost checks "host", "ns/host", "./host" and "*/host".
func (r *reading) serverHost(path, h string) string {
	ns, host, ok := strings.Cut(h, "/")
	if !ok {
		if netipHost(h) {
			r.Invalid(path, "%q is an address; write a host name or \"*\"", clip(h))
			return h
		}
		return r.host(path, h, true)
	}
	switch {
	case ns == "~":
		r.Invalid(path, "~ (no namespace) cannot stand in a Gateway")
	case ns != "*" && ns != ".":
		r.dnsLabel(path, "namespace", ns)
	}
	return ns + "/" + r.host(path, host, true)
}

func netipHost(h string) bool {
	_, err := netip.ParseAddr(h)
	return err == nil
}

var serverModes = map[networking.ServerTLSSettings_TLSmode]model.ServerTLSMode{
	networking.ServerTLSSettings_PASSTHROUGH: model.ServerPassthrough, networking.ServerTLSSettings_SIMPLE: model.ServerSimple,
	networking.ServerTLSSettings_MUTUAL: model.ServerMutual, networking.ServerTLSSettings_OPTIONAL_MUTUAL: model.ServerOptionalMutual,
	networking.ServerTLSSettings_ISTIO_MUTUAL: model.ServerIstioMutual, networking.ServerTLSSettings_AUTO_PASSTHROUGH: model.ServerAutoPassthrough,
}

var tlsVersions = map[networking.ServerTLSSettings_TLSProtocol]string{
	networking.ServerTLSSettings_TLSV1_0: "1.0", networking.ServerTLSSettings_TLSV1_1: "1.1",
	networking.ServerTLSSettings_TLSV1_2: "1.2", networking.ServerTLSSettings_TLSV1_3: "1.3",
}

func (r *reading) serverTLS(path string, t *networking.ServerTLSSettings) *model.ServerTLS {
	out := &model.ServerTLS{
		Mode: serverModes[t.Mode], Certificate: t.ServerCertificate, Key: t.PrivateKey, CACertificates: t.CaCertificates,
		SANs: t.SubjectAltNames, CertificateHashes: t.VerifyCertificateHash,
		MinVersion: tlsVersions[t.MinProtocolVersion], MaxVersion: tlsVersions[t.MaxProtocolVersion],
		InsecureSkip: t.GetInsecureSkipVerify().GetValue(), Origin: r.at(path),
	}
	out.CRL, out.CACredential, out.KeyHashes = t.CaCrl, t.CaCertCredentialName, t.VerifyCertificateSpki
	if out.CRL != "" && t.CaCertificates == "" {
		r.Invalid(path+".caCrl", "acts beside caCertificates alone (a Secret brings its own as ca.crl)")
	}
	for i, c := range t.TlsCertificates {
		at := index(path+".tlsCertificates", i)
		switch {
		case t.ServerCertificate != "" || t.PrivateKey != "":
			r.Invalid(at, "tlsCertificates and serverCertificate exclude each other")
		case c.ServerCertificate == "":
			r.Invalid(at+".serverCertificate", "is missing")
		case c.PrivateKey == "":
			r.Invalid(at+".privateKey", "is missing")
		}
		if c.CaCertificates != "" {
			r.Doubtful(at+".caCertificates", "has no effect: clients are checked against caCertificates of the server")
		}
		out.More = append(out.More, model.CertificateFiles{Certificate: c.ServerCertificate, Key: c.PrivateKey})
	}
	for i, h := range t.VerifyCertificateHash {
		if b, err := hex.DecodeString(strings.ReplaceAll(h, ":", "")); err != nil || len(b) != 32 {
			r.Invalid(index(path+".verifyCertificateHash", i), "%q is no SHA-256 in hex", clip(h))
		}
	}
	for i, h := range t.VerifyCertificateSpki {
		if b, err := base64.StdEncoding.DecodeString(h); err != nil || len(b) != 32 {
			r.Invalid(index(path+".verifyCertificateSpki", i), "%q is no SHA-256 in base64", clip(h))
		}
	}
	if t.CredentialName != "" && len(t.CredentialNames) > 0 {
		r.Invalid(path, "credentialName and credentialNames exclude each other")
	}
	if t.CredentialName != "" {
		out.CredentialNames = []string{t.CredentialName}
	} else {
		out.CredentialNames = t.CredentialNames
	}
	if out.MinVersion != "" && out.MaxVersion != "" && out.MinVersion > out.MaxVersion {
		r.Invalid(path, "minProtocolVersion %s is above maxProtocolVersion %s", out.MinVersion, out.MaxVersion)
	}
	files := t.ServerCertificate != "" || t.PrivateKey != "" || len(t.TlsCertificates) > 0
	names := len(out.CredentialNames) > 0
	switch out.Mode {
	case model.ServerSimple, model.ServerMutual, model.ServerOptionalMutual:
		switch {
		case names && files:
			r.Invalid(path, "credentialName and certificate files exclude each other")
		case !names && len(t.TlsCertificates) == 0 && t.ServerCertificate == "":
			r.Invalid(path, "mode %s needs credentialName, or serverCertificate and privateKey", t.Mode)
		case !names && len(t.TlsCertificates) == 0 && t.PrivateKey == "":
			r.Invalid(path+".privateKey", "is needed beside serverCertificate")
		}
		if out.Mode != model.ServerSimple && !names && t.CaCertificates == "" && out.CACredential == "" {
			r.Invalid(path+".caCertificates", "is needed by mode %s", t.Mode)
		}
	case model.ServerIstioMutual:
		if files || names || t.CaCertificates != "" {
			r.Invalid(path, "mode ISTIO_MUTUAL uses the mesh's own certificates; leave the others out")
		}
	default:
		if files || names || t.CaCertificates != "" {
			r.Doubtful(path, "mode %s does not open TLS: certificates have no effect", t.Mode)
		}
	}
	if len(out.SANs) > 0 && out.Mode != model.ServerMutual && out.Mode != model.ServerOptionalMutual && out.Mode != model.ServerIstioMutual {
		r.Doubtful(path+".subjectAltNames", "has no effect: mode %s asks for no client certificate", t.Mode)
	}
	out.CipherSuites = nil
	for i, c := range t.CipherSuites {
		if !cipherSuites[c] {
			r.Doubtful(index(path+".cipherSuites", i), "%q is not a known cipher suite: left out", clip(c))
			continue
		}
		out.CipherSuites = append(out.CipherSuites, c)
	}
	if len(t.CipherSuites) > 0 && len(out.CipherSuites) == 0 {
		r.Invalid(path+".cipherSuites", "none of them is known")
	}
	return out
}

// cipherSuites that Envoy's TLS library knows for TLS 1.2 and below.
var cipherSuites = map[string]bool{
	"ECDHE-ECDSA-AES128-GCM-SHA256": true, "ECDHE-RSA-AES128-GCM-SHA256": true,
	"ECDHE-ECDSA-AES256-GCM-SHA384": true, "ECDHE-RSA-AES256-GCM-SHA384": true,
	"ECDHE-ECDSA-CHACHA20-POLY1305": true, "ECDHE-RSA-CHACHA20-POLY1305": true,
	"ECDHE-ECDSA-AES128-SHA": true, "ECDHE-RSA-AES128-SHA": true, "ECDHE-ECDSA-AES256-SHA": true, "ECDHE-RSA-AES256-SHA": true,
	"AES128-GCM-SHA256": true, "AES256-GCM-SHA384": true, "AES128-SHA": true, "AES256-SHA": true,
}
