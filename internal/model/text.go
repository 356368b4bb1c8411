package model

import (
	"errors"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Text is the text form: one object per block, its parts indented below it, the
// origin behind "#". A line is a word, arguments, key=value attributes and bare
// flags; zero values are not written. Parse reads it back. Values of secrets
// are written as redacted and are not in the text; everything else is. Nothing
// of the model gives a meaning to the difference between nil and empty lists.
func Text(frag Fragment) string {
	root := &form{line: &line{}}
	fragment(root, &frag)
	var b strings.Builder
	for i, l := range root.below {
		if i > 0 && (len(l.below) > 0 || len(root.below[i-1].below) > 0 || l.word != root.below[i-1].word) {
			b.WriteByte('\n')
		}
		l.write(&b, 0)
	}
	return b.String()
}

// Parse reads the text form. Errors name the line. Comment lines and empty
// lines are skipped; an object without a comment has the zero Origin.
func Parse(text string) (Fragment, error) {
	var out Fragment
	below, err := readLines(text)
	if err != nil {
		return out, err
	}
	root := &form{line: &line{below: below}, reading: true}
	fragment(root, &out)
	if root.err != nil {
		return Fragment{}, root.err
	}
	for _, l := range below {
		if !l.used {
			return Fragment{}, errors.New("line " + strconv.Itoa(l.number) + ": unknown word " + l.word)
		}
	}
	return out, nil
}

// Equal compares two fragments; nil and empty lists and maps are equal, and so
// are times that mean the same moment.
func Equal(a, b Fragment) bool { return same(reflect.ValueOf(a), reflect.ValueOf(b)) }

var timeType = reflect.TypeFor[time.Time]()

func same(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Struct:
		if a.Type() == timeType {
			return a.Interface().(time.Time).Equal(b.Interface().(time.Time))
		}
		if a.Type().Comparable() && a.NumField() > 0 && a.Type().Field(0).PkgPath != "" {
			return a.Interface() == b.Interface() // netip: unexported fields
		}
		for i := range a.NumField() {
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() {
			return false
		}
		for it := a.MapRange(); it.Next(); {
			v := b.MapIndex(it.Key())
			if !v.IsValid() || !same(it.Value(), v) {
				return false
			}
		}
		return true
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return same(a.Elem(), b.Elem())
	}
	return a.Interface() == b.Interface()
}

func fragment(f *form, x *Fragment) {
	objects(f, "mesh", &x.Settings, textMesh)
	objects(f, "namespace", &x.Namespaces, textNamespace)
	objects(f, "service", &x.Services, textService)
	objects(f, "workload", &x.Workloads, textWorkload)
	objects(f, "routes", &x.RouteSets, textRouteSet)
	objects(f, "destination", &x.Destinations, textDestination)
	objects(f, "gateway", &x.Gateways, textGateway)
	objects(f, "mtls", &x.MTLS, textMTLS)
	objects(f, "authz", &x.Authz, textAuthz)
	objects(f, "requests", &x.Requests, textRequests)
	objects(f, "sidecar", &x.Sidecars, textSidecar)
	objects(f, "secret", &x.Secrets, textSecret)
	objects(f, "status", &x.Statuses, textStatus)
}

// objects visits a list of pointers.
func objects[T any](f *form, word string, p *[]*T, visit func(*form, *T)) {
	if !f.reading {
		for _, x := range *p {
			l := &line{word: word}
			f.below = append(f.below, l)
			f.child(l, func(c *form) { visit(c, x) })
		}
		return
	}
	var l []T
	each(f, word, &l, visit)
	for i := range l {
		*p = append(*p, &l[i])
	}
}

func textNamespace(f *form, x *Namespace) {
	f.note(&x.Origin)
	f.need(&x.Name)
	f.labels("labels", &x.Labels)
}

var protocolNames = []string{"auto", "http", "http2", "grpc", "https", "tls", "tcp", "udp"}
var resolutionNames = []string{"static", "dns", "dns-round-robin", "passthrough"}

func textService(f *form, x *Service) {
	f.note(&x.Origin)
	f.need(&x.Host)
	f.str("name", &x.Name)
	f.str("namespace", &x.Namespace)
	f.flag("kubernetes", &x.Kubernetes)
	f.flag("external", &x.External)
	f.flag("headless", &x.Headless)
	enum(f, "resolution", &x.Resolution, resolutionNames)
	list(f, "address", &x.Addresses, netip.Prefix.String, readPrefix)
	f.labels("select", &x.Selector)
	f.flag("sliced", &x.Sliced)
	f.strs("export", &x.ExportTo)
	f.strs("sans", &x.SANs)
	each(f, "port", &x.Ports, textPort)
	each(f, "endpoint", &x.Endpoints, textEndpoint)
}

// readPrefix reads an address range, or an address for itself alone.
func readPrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

func textPort(f *form, x *Port) {
	uintArg(f, &x.Number)
	enumArg(f, &x.Protocol, protocolNames)
	f.str("name", &x.Name)
	uintAttr(f, "target", &x.Target)
	f.str("target-name", &x.TargetName)
}

func textEndpoint(f *form, x *Endpoint) {
	f.note(&x.Origin)
	f.need(&x.Address)
	f.ports("ports", &x.Ports)
	f.labels("labels", &x.Labels)
	f.locality(&x.Locality)
	uintAttr(f, "weight", &x.Weight)
	f.str("network", &x.Network)
	f.str("account", &x.Account)
	f.str("workload", &x.Workload)
	f.flag("ready", &x.Ready)
}

func (f *form) ports(key string, p *map[string]uint16) {
	pairs(f, key, p, func(n uint16) string { return strconv.Itoa(int(n)) }, func(s string) (n uint16, err error) {
		err = readUint(&n)(s)
		return n, err
	})
}

func (f *form) locality(p *Locality) {
	f.str("region", &p.Region)
	f.str("zone", &p.Zone)
	f.str("subzone", &p.Subzone)
}

var injectionNames = []string{"none", "if-asked", "unless-not"}

func textWorkload(f *form, x *Workload) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	f.flag("template", &x.Template)
	f.flag("gateway", &x.Gateway)
	f.str("address", &x.Address)
	f.strs("more", &x.More)
	f.labels("labels", &x.Labels)
	f.str("account", &x.Account)
	f.str("owner", &x.Owner)
	f.str("host", &x.Host)
	f.ports("ports", &x.Ports)
	f.locality(&x.Locality)
	uintAttr(f, "weight", &x.Weight)
	f.str("network", &x.Network)
	f.flag("ready", &x.Ready)
	f.flag("mtls", &x.MTLS)
	enum(f, "inject", &x.Injection, injectionNames)
	each(f, "expose", &x.Expose, func(f *form, x *Expose) {
		uintArg(f, &x.Port)
		f.addrPort("listen", &x.Listen)
		f.addrPort("app", &x.App)
	})
	one(f, "probe", &x.Probe, textProbe)
}

func textProbe(f *form, x *Probe) {
	f.str("path", &x.Path)
	f.flag("tls", &x.TLS)
	f.labels("headers", &x.Headers)
	f.str("host", &x.Host)
	uintAttr(f, "port", &x.Port)
	f.strs("exec", &x.Exec)
	f.duration("initial", &x.Initial)
	f.duration("period", &x.Period)
	f.duration("timeout", &x.Timeout)
	uintAttr(f, "failures", &x.Failures)
	uintAttr(f, "success", &x.Success)
}

var algorithmNames = []string{"least-request", "round-robin", "random", "original-dst", "ring-hash", "maglev"}
var upgradeNames = []string{"default", "always", "never"}
var clientTLSNames = []string{"auto", "disable", "simple", "mutual", "istio-mutual"}

func textDestination(f *form, x *DestinationPolicy) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	f.str("host", &x.Host)
	f.strs("export", &x.ExportTo)
	f.labels("clients", &x.Selector)
	textPolicy(f, &x.Policy)
	each(f, "subset", &x.Subsets, func(f *form, x *Subset) {
		f.note(&x.Origin)
		f.arg(&x.Name)
		f.labels("labels", &x.Labels)
		textPolicy(f, &x.Policy)
	})
}

func textPolicy(f *form, x *TrafficPolicy) {
	textBlocks(f, x)
	each(f, "port", &x.Ports, func(f *form, x *PortPolicy) {
		uintArg(f, &x.Port)
		textBlocks(f, &x.TrafficPolicy)
	})
}

func textBlocks(f *form, x *TrafficPolicy) {
	one(f, "balance", &x.LoadBalancer, textBalancer)
	one(f, "pool", &x.Pool, textPool)
	one(f, "outlier", &x.Outlier, textOutlier)
	one(f, "tls", &x.TLS, textClientTLS)
	one(f, "retries", &x.Retries, func(f *form, x *RetryBudget) {
		optional(f, "percent", &x.Percent, func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) },
			func(s string) (float64, error) { return strconv.ParseFloat(s, 64) })
		uintAttr(f, "min", &x.Min)
	})
}

func textBalancer(f *form, x *LoadBalancer) {
	f.note(&x.Origin)
	enumArg(f, &x.Algorithm, algorithmNames)
	uintAttr(f, "table", &x.TableSize)
	one(f, "warmup", &x.Warmup, func(f *form, x *Warmup) {
		f.duration("for", &x.Duration)
		optional(f, "min", &x.MinPercent, func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) },
			func(s string) (float64, error) { return strconv.ParseFloat(s, 64) })
		f.float("aggression", &x.Aggression)
	})
	one(f, "hash", &x.Hash, func(f *form, x *HashKey) {
		f.str("header", &x.Header)
		f.str("query", &x.Query)
		f.flag("source-ip", &x.SourceIP)
		one(f, "cookie", &x.Cookie, func(f *form, x *HashCookie) {
			f.arg(&x.Name)
			f.str("path", &x.Path)
			optional(f, "ttl", &x.TTL, time.Duration.String, time.ParseDuration)
			f.headers("attributes", &x.Attributes)
		})
	})
	one(f, "locality", &x.Locality, textLocality)
}

func textLocality(f *form, x *LocalityLB) {
	f.flag("disabled", &x.Disabled)
	f.strs("priority", &x.Priority)
	each(f, "distribute", &x.Distribute, func(f *form, x *LocalityShare) {
		f.arg(&x.From)
		pairs(f, "to", &x.To, writeUint32, readUint32)
	})
	each(f, "failover", &x.Failover, func(f *form, x *LocalityPair) {
		f.arg(&x.From)
		f.str("to", &x.To)
	})
}

func textPool(f *form, x *ConnectionPool) {
	f.note(&x.Origin)
	uintAttr(f, "connections", &x.MaxConnections)
	f.duration("connect-timeout", &x.ConnectTimeout)
	f.duration("connection-duration", &x.MaxConnectionDuration)
	f.duration("tcp-idle", &x.TCPIdleTimeout)
	uintAttr(f, "pending", &x.MaxPendingRequests)
	uintAttr(f, "requests", &x.MaxRequests)
	uintAttr(f, "requests-per-connection", &x.MaxRequestsPerConn)
	uintAttr(f, "retries", &x.MaxRetries)
	f.duration("http-idle", &x.HTTPIdleTimeout)
	enum(f, "h2-upgrade", &x.H2Upgrade, upgradeNames)
	f.flag("client-protocol", &x.UseClientProtocol)
	uintAttr(f, "streams", &x.MaxConcurrentStreams)
	one(f, "keepalive", &x.Keepalive, textKeepalive)
}

func textKeepalive(f *form, x *Keepalive) {
	uintAttr(f, "probes", &x.Probes)
	f.duration("time", &x.Time)
	f.duration("interval", &x.Interval)
}

func textOutlier(f *form, x *Outlier) {
	f.note(&x.Origin)
	optional(f, "5xx", &x.Consecutive5xx, writeUint32, readUint32)
	optional(f, "gateway-errors", &x.ConsecutiveGateway, writeUint32, readUint32)
	f.flag("split-local", &x.SplitLocalErrors)
	optional(f, "local", &x.ConsecutiveLocal, writeUint32, readUint32)
	f.duration("interval", &x.Interval)
	f.duration("ejection", &x.BaseEjection)
	optional(f, "max-percent", &x.MaxEjectionPercent, writeUint32, readUint32)
	uintAttr(f, "min-health-percent", &x.MinHealthPercent)
}

func textClientTLS(f *form, x *ClientTLS) {
	f.note(&x.Origin)
	enumArg(f, &x.Mode, clientTLSNames)
	f.str("certificate", &x.Certificate)
	f.str("key", &x.Key)
	f.str("ca", &x.CACertificates)
	f.str("crl", &x.CRL)
	f.str("credential", &x.CredentialName)
	f.str("ca-pem", &x.CA)
	f.strs("sans", &x.SANs)
	f.str("sni", &x.SNI)
	f.flag("insecure", &x.InsecureSkipVerify)
}

var serverTLSNames = []string{"passthrough", "simple", "mutual", "optional-mutual", "istio-mutual", "auto-passthrough"}

func textGateway(f *form, x *Gateway) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	f.labels("select", &x.Selector)
	f.flag("closed", &x.Closed)
	each(f, "server", &x.Servers, func(f *form, x *Server) {
		f.note(&x.Origin)
		textPort(f, &x.Port)
		f.strs("hosts", &x.Hosts)
		f.str("server-name", &x.Name)
		f.str("bind", &x.Bind)
		f.flag("redirect", &x.Redirect)
		one(f, "tls", &x.TLS, textServerTLS)
	})
}

func textServerTLS(f *form, x *ServerTLS) {
	f.note(&x.Origin)
	enumArg(f, &x.Mode, serverTLSNames)
	f.strs("credentials", &x.CredentialNames)
	f.str("certificate", &x.Certificate)
	f.str("key", &x.Key)
	f.str("ca", &x.CACertificates)
	f.str("crl", &x.CRL)
	f.str("ca-pem", &x.CA)
	f.str("ca-credential", &x.CACredential)
	f.refs("granted", &x.Granted)
	f.strs("sans", &x.SANs)
	f.str("min", &x.MinVersion)
	f.str("max", &x.MaxVersion)
	f.strs("ciphers", &x.CipherSuites)
	f.flag("insecure", &x.InsecureSkip)
	f.strs("hashes", &x.CertificateHashes)
	f.strs("key-hashes", &x.KeyHashes)
	each(f, "files", &x.More, func(f *form, x *CertificateFiles) {
		f.str("certificate", &x.Certificate)
		f.str("key", &x.Key)
	})
}

var mtlsNames = []string{"UNSET", "DISABLE", "PERMISSIVE", "STRICT"}
var actionNames = []string{"ALLOW", "DENY", "AUDIT", "CUSTOM"}

func textMTLS(f *form, x *MTLSPolicy) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	enumArg(f, &x.Mode, mtlsNames)
	f.labels("select", &x.Selector)
	type portMode struct {
		port uint16
		mode MTLSMode
	}
	var l []portMode
	for _, p := range sortedPorts(x.Ports) {
		l = append(l, portMode{p, x.Ports[p]})
	}
	list(f, "ports", &l, func(x portMode) string { return strconv.Itoa(int(x.port)) + "=" + mtlsNames[x.mode] }, func(raw string) (portMode, error) {
		var out portMode
		a, b, _ := cut(raw, '=')
		if err := readUint(&out.port)(a); err != nil {
			return out, err
		}
		return out, readEnum(&out.mode, mtlsNames)(b)
	})
	if f.reading && len(l) > 0 {
		x.Ports = map[uint16]MTLSMode{}
		for _, p := range l {
			x.Ports[p.port] = p.mode
		}
	}
}

func textAuthz(f *form, x *AuthzPolicy) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	enumArg(f, &x.Action, actionNames)
	f.labels("select", &x.Selector)
	f.refs("gateways", &x.Gateways)
	f.refs("services", &x.Services)
	f.str("provider", &x.Provider)
	f.flag("dry-run", &x.DryRun)
	each(f, "rule", &x.Rules, func(f *form, x *AuthzRule) {
		f.note(&x.Origin)
		each(f, "from", &x.From, textSource)
		each(f, "to", &x.To, textOperation)
		each(f, "when", &x.When, func(f *form, x *AuthzCondition) {
			f.arg(&x.Key)
			f.strs("values", &x.Values)
			f.strs("not-values", &x.NotValues)
		})
	})
}

func (f *form) refs(key string, p *[]Ref) {
	list(f, key, p, func(r Ref) string { return pairText(r.Namespace, r.Name, '/') }, func(raw string) (Ref, error) {
		a, b, ok := cut(raw, '/')
		if !ok {
			return Ref{}, errors.New("want namespace/name")
		}
		ns, err := unquote(a)
		if err != nil {
			return Ref{}, err
		}
		name, err := unquote(b)
		return Ref{ns, name}, err
	})
}

func textSource(f *form, x *AuthzSource) {
	f.strs("principals", &x.Principals)
	f.strs("not-principals", &x.NotPrincipals)
	f.strs("request-principals", &x.RequestPrincipals)
	f.strs("not-request-principals", &x.NotRequestPrincipals)
	f.strs("namespaces", &x.Namespaces)
	f.strs("not-namespaces", &x.NotNamespaces)
	f.strs("accounts", &x.Accounts)
	f.strs("not-accounts", &x.NotAccounts)
	f.strs("ips", &x.IPBlocks)
	f.strs("not-ips", &x.NotIPBlocks)
	f.strs("remote-ips", &x.RemoteIPBlocks)
	f.strs("not-remote-ips", &x.NotRemoteIPBlocks)
}

func textOperation(f *form, x *AuthzOperation) {
	f.strs("hosts", &x.Hosts)
	f.strs("not-hosts", &x.NotHosts)
	f.strs("ports", &x.Ports)
	f.strs("not-ports", &x.NotPorts)
	f.strs("methods", &x.Methods)
	f.strs("not-methods", &x.NotMethods)
	f.strs("paths", &x.Paths)
	f.strs("not-paths", &x.NotPaths)
}

func textRequests(f *form, x *RequestPolicy) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	f.labels("select", &x.Selector)
	f.refs("services", &x.Services)
	f.refs("gateways", &x.Gateways)
	b := &x.Bounds
	uintAttr(f, "header-bytes", &b.HeaderBytes)
	uintAttr(f, "headers", &b.Headers)
	uintAttr(f, "body-bytes", &b.BodyBytes)
	f.duration("header-time", &b.HeaderTime)
	f.duration("request-time", &b.RequestTime)
	f.duration("idle-time", &b.IdleTime)
	f.duration("stream-time", &b.StreamTime)
	one(f, "compress", &x.Compress, func(f *form, x *Compression) {
		f.note(&x.Origin)
		f.strs("algorithms", &x.Algorithms)
		f.strs("types", &x.ContentTypes)
		uintAttr(f, "min-bytes", &x.MinBytes)
	})
	each(f, "limit", &x.Limits, func(f *form, x *RateLimit) {
		f.note(&x.Origin)
		uintAttr(f, "requests", &x.Requests)
		f.duration("per", &x.Per)
		uintAttr(f, "burst", &x.Burst)
		f.match("path", &x.Path)
		f.match("method", &x.Method)
		f.named("header", &x.Headers)
		list(f, "by", &x.By, LimitKey.String, readLimitKey)
		f.flag("silent", &x.Silent)
	})
}

var limitNames = []string{ByHeader: "header", ByAddress: "address", ByPath: "path", ByPrincipal: "principal"}

// String is as in the text form: address, path, principal or header:name.
func (k LimitKey) String() string {
	if k.Header == "" {
		return limitNames[k.Kind]
	}
	return limitNames[k.Kind] + ":" + quote(k.Header, "")
}

func readLimitKey(raw string) (k LimitKey, err error) {
	kind, header, _ := cut(raw, ':')
	if err := readEnum(&k.Kind, limitNames)(kind); err != nil || header == "" {
		return k, err
	}
	k.Header, err = unquote(header)
	return k, err
}

func textSecret(f *form, x *Secret) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	f.str("type", &x.Type)
	pairs(f, "data", &x.Data, func(s Sensitive) string { return s.String() }, func(raw string) (Sensitive, error) {
		s, err := unquote(raw)
		return Sensitive(s), err
	})
}
