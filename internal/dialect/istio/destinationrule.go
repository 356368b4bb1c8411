package istio

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/model"
)

func readDestinationRule(r *reading, m proto.Message, out *model.Fragment) {
	dr := m.(*networking.DestinationRule)
	p := &model.DestinationPolicy{
		Name: r.Object.Name, Namespace: r.Object.Namespace,
		ExportTo: r.exportTo("spec.exportTo", dr.ExportTo),
		Selector: r.labels("spec.workloadSelector.matchLabels", dr.GetWorkloadSelector().GetMatchLabels()),
		Origin:   r.at(""),
	}
	if dr.Host == "" {
		r.Invalid("spec.host", "is missing")
	} else {
		p.Host = r.host("spec.host", dr.Host, true)
	}
	p.Policy = r.trafficPolicy("spec.trafficPolicy", dr.TrafficPolicy)
	seen := make(map[string]bool)
	for i, s := range dr.Subsets {
		at := index("spec.subsets", i)
		if s.Name == "" {
			r.Invalid(at+".name", "is missing")
		} else {
			r.dnsLabel(at+".name", "subset name", s.Name)
		}
		if seen[s.Name] {
			r.Invalid(at+".name", "subset %q stands here twice", s.Name)
		}
		seen[s.Name] = true
		sub := model.Subset{Name: s.Name, Labels: r.labels(at+".labels", s.Labels), Origin: r.at(at)}
		sub.Policy = r.trafficPolicy(at+".trafficPolicy", s.TrafficPolicy)
		if len(s.Labels) == 0 {
			r.Doubtful(at, "the subset has no labels: it is every endpoint of the host")
		}
		p.Subsets = append(p.Subsets, sub)
	}
	out.Destinations = append(out.Destinations, p)
}

func (r *reading) trafficPolicy(path string, in *networking.TrafficPolicy) model.TrafficPolicy {
	if in == nil {
		return model.TrafficPolicy{}
	}
	out := model.TrafficPolicy{
		LoadBalancer: r.loadBalancer(path+".loadBalancer", in.LoadBalancer),
		Pool:         r.pool(path+".connectionPool", in.ConnectionPool),
		Outlier:      r.outlier(path+".outlierDetection", in.OutlierDetection),
		TLS:          r.clientTLS(path+".tls", in.Tls),
	}
	if b := in.RetryBudget; b != nil {
		out.Retries = &model.RetryBudget{Min: b.MinRetryConcurrency}
		if b.Percent != nil {
			v := r.percent(path+".retryBudget.percent", b.Percent.Value)
			out.Retries.Percent = &v
		}
	}
	if in.LoadBalancer == nil && in.ConnectionPool == nil && in.OutlierDetection == nil && in.Tls == nil &&
		len(in.PortLevelSettings) == 0 && in.Tunnel == nil && in.ProxyProtocol == nil && in.RetryBudget == nil && !r.damaged(path) {
		r.Invalid(path, "is empty: give one of loadBalancer, connectionPool, outlierDetection, tls, portLevelSettings")
	}
	for i, p := range in.PortLevelSettings {
		at := index(path+".portLevelSettings", i)
		if p.Port == nil {
			r.Invalid(at+".port", "is missing")
			continue
		}
		out.Ports = append(out.Ports, model.PortPolicy{
			Port: r.port(at+".port.number", p.Port.Number, false),
			TrafficPolicy: model.TrafficPolicy{
				LoadBalancer: r.loadBalancer(at+".loadBalancer", p.LoadBalancer),
				Pool:         r.pool(at+".connectionPool", p.ConnectionPool),
				Outlier:      r.outlier(at+".outlierDetection", p.OutlierDetection),
				TLS:          r.clientTLS(at+".tls", p.Tls),
			},
		})
	}
	return out
}

func (r *reading) loadBalancer(path string, in *networking.LoadBalancerSettings) *model.LoadBalancer {
	if in == nil {
		return nil
	}
	out := &model.LoadBalancer{Origin: r.at(path)}
	switch p := in.LbPolicy.(type) {
	case *networking.LoadBalancerSettings_Simple:
		switch p.Simple {
		case networking.LoadBalancerSettings_ROUND_ROBIN:
			out.Algorithm = model.RoundRobin
		case networking.LoadBalancerSettings_RANDOM:
			out.Algorithm = model.Random
		case networking.LoadBalancerSettings_PASSTHROUGH:
			out.Algorithm = model.OriginalDst
		}
	case *networking.LoadBalancerSettings_ConsistentHash:
		r.consistentHash(path+".consistentHash", p.ConsistentHash, out)
	}
	out.Locality = r.localityLB(path+".localityLbSetting", in.LocalityLbSetting)
	if in.WarmupDurationSecs != nil && in.Warmup != nil { //nolint:staticcheck // read as long as the API has it
		r.Invalid(path, "warmupDurationSecs and warmup exclude each other")
	}
	if d := in.WarmupDurationSecs; d != nil { //nolint:staticcheck // as above
		out.Warmup = &model.Warmup{Duration: r.duration(path+".warmupDurationSecs", d, time.Millisecond)}
	}
	if w := in.Warmup; w != nil {
		if w.Duration == nil {
			r.Invalid(path+".warmup.duration", "is missing")
		}
		out.Warmup = &model.Warmup{Duration: r.duration(path+".warmup.duration", w.Duration, time.Millisecond)}
		if p := w.MinimumPercent; p != nil {
			v := r.percent(path+".warmup.minimumPercent", p.Value)
			out.Warmup.MinPercent = &v
		}
		if a := w.Aggression; a != nil {
			if out.Warmup.Aggression = a.Value; a.Value < 1 {
				r.Invalid(path+".warmup.aggression", "%g is less than 1", a.Value)
			}
		}
	}
	if out.Warmup != nil && out.Warmup.Duration == 0 {
		out.Warmup = nil
	}
	if out.Warmup != nil && out.Algorithm != model.RoundRobin && out.Algorithm != model.LeastRequest {
		r.Doubtful(path, "warmup acts with ROUND_ROBIN and LEAST_REQUEST alone")
	}
	return out
}

func (r *reading) consistentHash(path string, in *networking.LoadBalancerSettings_ConsistentHashLB, out *model.LoadBalancer) {
	out.Algorithm = model.RingHash
	key := &model.HashKey{}
	switch k := in.HashKey.(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		key.Header = r.headerName(path+".httpHeaderName", k.HttpHeaderName)
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		key.Query = k.HttpQueryParameterName
		if key.Query == "" {
			r.Invalid(path+".httpQueryParameterName", "is empty")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		key.SourceIP = k.UseSourceIp
		if !k.UseSourceIp {
			r.Invalid(path+".useSourceIp", "false is no hash key; leave consistentHash out instead")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		c := k.HttpCookie
		key.Cookie = &model.HashCookie{Name: c.GetName(), Path: c.GetPath()}
		if c.GetName() == "" {
			r.Invalid(path+".httpCookie.name", "is missing")
		}
		if c.GetTtl() != nil {
			ttl := r.duration(path+".httpCookie.ttl", c.Ttl, 0)
			key.Cookie.TTL = &ttl
		}
		for i, a := range c.Attributes {
			at := index(path+".httpCookie.attributes", i)
			if a.Name == "" || strings.ContainsAny(a.Name+a.Value, "; \t\r\n,") || strings.Contains(a.Name, "=") {
				r.Invalid(at, "%q is not the name and value of a cookie's attribute", clip(a.Name+"="+a.Value))
			}
			key.Cookie.Attributes = append(key.Cookie.Attributes, model.Header{Name: a.Name, Value: a.Value})
		}
	default:
		r.Invalid(path, "one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName is needed")
	}
	out.Hash = key
	switch a := in.HashAlgorithm.(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_RingHash_:
		out.TableSize = a.RingHash.GetMinimumRingSize()
		if out.TableSize > 8<<20 {
			r.Invalid(path+".ringHash.minimumRingSize", "%d is more than 8388608", out.TableSize)
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_Maglev:
		out.Algorithm, out.TableSize = model.Maglev, a.Maglev.GetTableSize()
		if n := out.TableSize; n != 0 && !isPrime(n) || n > 5_000_011 {
			r.Invalid(path+".maglev.tableSize", "%d is not a prime up to 5000011", n)
		}
	case nil:
		out.TableSize = in.MinimumRingSize //nolint:staticcheck // read as long as the API has it
	}
}

func isPrime(n uint64) bool {
	if n < 2 || n > 1<<32 {
		return false
	}
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

func (r *reading) pool(path string, in *networking.ConnectionPoolSettings) *model.ConnectionPool {
	if in == nil {
		return nil
	}
	if in.Http == nil && in.Tcp == nil && !r.damaged(path) {
		r.Invalid(path, "is empty: give tcp, http or both")
	}
	out := &model.ConnectionPool{Origin: r.at(path)}
	if t := in.Tcp; t != nil {
		at := path + ".tcp"
		out.MaxConnections = r.count(at+".maxConnections", t.MaxConnections)
		out.ConnectTimeout = r.duration(at+".connectTimeout", t.ConnectTimeout, time.Millisecond)
		out.MaxConnectionDuration = r.duration(at+".maxConnectionDuration", t.MaxConnectionDuration, time.Millisecond)
		out.TCPIdleTimeout = r.idle(at+".idleTimeout", t.IdleTimeout)
		if k := t.TcpKeepalive; k != nil {
			out.Keepalive = &model.Keepalive{
				Probes:   k.Probes,
				Time:     r.duration(at+".tcpKeepalive.time", k.Time, time.Second),
				Interval: r.duration(at+".tcpKeepalive.interval", k.Interval, time.Second),
			}
		}
	}
	if h := in.Http; h != nil {
		at := path + ".http"
		out.MaxPendingRequests = r.count(at+".http1MaxPendingRequests", h.Http1MaxPendingRequests)
		out.MaxRequests = r.count(at+".http2MaxRequests", h.Http2MaxRequests)
		out.MaxRequestsPerConn = r.count(at+".maxRequestsPerConnection", h.MaxRequestsPerConnection)
		out.MaxRetries = r.count(at+".maxRetries", h.MaxRetries)
		out.HTTPIdleTimeout = r.idle(at+".idleTimeout", h.IdleTimeout)
		out.UseClientProtocol = h.UseClientProtocol
		out.MaxConcurrentStreams = r.count(at+".maxConcurrentStreams", h.MaxConcurrentStreams)
		switch h.H2UpgradePolicy {
		case networking.ConnectionPoolSettings_HTTPSettings_UPGRADE:
			out.H2Upgrade = model.H2Always
		case networking.ConnectionPoolSettings_HTTPSettings_DO_NOT_UPGRADE:
			out.H2Upgrade = model.H2Never
		}
		if h.UseClientProtocol && out.H2Upgrade == model.H2Always {
			r.Invalid(at, "useClientProtocol and h2UpgradePolicy: UPGRADE exclude each other")
		}
	}
	return out
}

func (r *reading) outlier(path string, in *networking.OutlierDetection) *model.Outlier {
	if in == nil {
		return nil
	}
	out := &model.Outlier{
		SplitLocalErrors: in.SplitExternalLocalOriginErrors,
		Interval:         r.optional(path+".interval", in.Interval),
		BaseEjection:     r.optional(path+".baseEjectionTime", in.BaseEjectionTime),
		Origin:           r.at(path),
	}
	if v := in.Consecutive_5XxErrors; v != nil {
		out.Consecutive5xx = &v.Value
	}
	if v := in.ConsecutiveGatewayErrors; v != nil {
		out.ConsecutiveGateway = &v.Value
	}
	if old := in.ConsecutiveErrors; old != 0 { //nolint:staticcheck // read as long as the API has it
		n := r.count(path+".consecutiveErrors", old)
		if out.Consecutive5xx == nil && out.ConsecutiveGateway == nil {
			// It meant 502, 503 and 504 alone, and then nothing else counted.
			off := uint32(0)
			out.ConsecutiveGateway, out.Consecutive5xx = &n, &off
		}
	}
	if v := in.ConsecutiveLocalOriginFailures; v != nil {
		out.ConsecutiveLocal = &v.Value
		if !in.SplitExternalLocalOriginErrors {
			r.Invalid(path+".consecutiveLocalOriginFailures", "acts only with splitExternalLocalOriginErrors: true")
		}
	}
	if in.MaxEjectionPercent != 0 {
		v := uint32(r.percent(path+".maxEjectionPercent", float64(in.MaxEjectionPercent)))
		out.MaxEjectionPercent = &v
	}
	out.MinHealthPercent = uint32(r.percent(path+".minHealthPercent", float64(in.MinHealthPercent)))
	return out
}

// idle is an idle timeout; 0s is never.
func (r *reading) idle(path string, d *durationpb.Duration) time.Duration {
	if d != nil && d.AsDuration() == 0 {
		return model.Never
	}
	return r.duration(path, d, 0)
}

// optional is a duration of at least a millisecond; missing is zero.
func (r *reading) optional(path string, d *durationpb.Duration) time.Duration {
	return r.duration(path, d, time.Millisecond)
}

func (r *reading) clientTLS(path string, in *networking.ClientTLSSettings) *model.ClientTLS {
	if in == nil {
		return nil
	}
	out := &model.ClientTLS{
		Certificate: in.ClientCertificate, Key: in.PrivateKey, CACertificates: in.CaCertificates,
		CredentialName: in.CredentialName, SANs: in.SubjectAltNames, SNI: in.Sni,
		InsecureSkipVerify: in.GetInsecureSkipVerify().GetValue(), Origin: r.at(path),
	}
	if out.CRL = in.CaCrl; out.CRL != "" && out.CACertificates == "" {
		r.Invalid(path+".caCrl", "acts beside caCertificates alone (a Secret brings its own as ca.crl)")
	}
	files := in.ClientCertificate != "" || in.PrivateKey != "" || in.CaCertificates != ""
	switch in.Mode {
	case networking.ClientTLSSettings_DISABLE:
		out.Mode = model.TLSDisable
	case networking.ClientTLSSettings_SIMPLE:
		out.Mode = model.TLSSimple
	case networking.ClientTLSSettings_MUTUAL:
		out.Mode = model.TLSMutual
		switch {
		case in.CredentialName != "" && files:
			r.Invalid(path, "credentialName and certificate files exclude each other")
		case in.CredentialName == "" && in.ClientCertificate == "":
			r.Invalid(path+".clientCertificate", "is needed by mode MUTUAL (or credentialName)")
		case in.CredentialName == "" && in.PrivateKey == "":
			r.Invalid(path+".privateKey", "is needed by mode MUTUAL (or credentialName)")
		}
	case networking.ClientTLSSettings_ISTIO_MUTUAL:
		out.Mode = model.TLSIstioMutual
		if files || in.CredentialName != "" {
			r.Invalid(path, "mode ISTIO_MUTUAL uses the mesh's own certificates; leave the others out")
		}
	}
	if in.Mode == networking.ClientTLSSettings_SIMPLE {
		if in.CredentialName != "" && in.CaCertificates != "" {
			r.Invalid(path, "credentialName and caCertificates exclude each other")
		}
		if in.CredentialName == "" && in.CaCertificates == "" && !out.InsecureSkipVerify {
			r.Doubtful(path, "without caCertificates the server is checked against the certificates of the system alone")
		}
	}
	return out
}
