package model

import (
	"strconv"
	"time"
)

// MeshSettings is what one user object says of the whole mesh: Istio's
// MeshConfig. Nil, zero and empty say nothing.
type MeshSettings struct {
	Name, Namespace string
	AllowAny        *bool // outboundTrafficPolicy
	AutoMTLS        *bool
	RootNamespace   string
	ConnectTimeout  time.Duration
	Keepalive       *Keepalive
	UpgradeHTTP2    *bool // h2UpgradePolicy
	Retry           *Retry
	Pool            *ConnectionPool // defaultTrafficPolicy
	Outlier         *Outlier
	Locality        *LocalityLB // localityLbSetting
	Paths           PathForm
	Log             *bool // accessLogFile
	LogJSON         *bool
	LogFormat       string

	ServiceExportTo, RouteExportTo, DestinationExportTo []string

	Origin Origin
}

// PathForm is how request paths are brought into one form before anything
// matches them.
type PathForm uint8

// Path forms, as Istio's pathNormalization.
const (
	PathBase           PathForm = iota // dot segments, backslashes, escaped unreserved characters (RFC 3986 6.2.2)
	PathNone                           // as sent
	PathMergeSlashes                   // and // is /
	PathDecodeAndMerge                 // and %2F, %5C are / first
)

var pathFormNames = []string{"base", "none", "merge-slashes", "decode-and-merge-slashes"}

func textMesh(f *form, x *MeshSettings) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	optional(f, "allow-any", &x.AllowAny, strconv.FormatBool, strconv.ParseBool)
	optional(f, "auto-mtls", &x.AutoMTLS, strconv.FormatBool, strconv.ParseBool)
	f.str("root", &x.RootNamespace)
	f.duration("connect-timeout", &x.ConnectTimeout)
	optional(f, "http2", &x.UpgradeHTTP2, strconv.FormatBool, strconv.ParseBool)
	enum(f, "paths", &x.Paths, pathFormNames)
	optional(f, "log", &x.Log, strconv.FormatBool, strconv.ParseBool)
	optional(f, "log-json", &x.LogJSON, strconv.FormatBool, strconv.ParseBool)
	f.str("log-format", &x.LogFormat)
	f.strs("services-to", &x.ServiceExportTo)
	f.strs("routes-to", &x.RouteExportTo)
	f.strs("destinations-to", &x.DestinationExportTo)
	one(f, "keepalive", &x.Keepalive, textKeepalive)
	one(f, "retry", &x.Retry, textRetry)
	one(f, "pool", &x.Pool, textPool)
	one(f, "outlier", &x.Outlier, textOutlier)
	one(f, "locality", &x.Locality, textLocality)
}
