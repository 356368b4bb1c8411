package model

import "strconv"

// SidecarPolicy is what one user object says of the sidecars of a namespace, or
// of chosen workloads in it: Istio's Sidecar. It narrows what they are told of;
// it is no firewall.
type SidecarPolicy struct {
	Name, Namespace string
	Selector        map[string]string // nil: the namespace (in the root namespace: the mesh)
	Ingress         []SidecarIngress  // nil: what services and the workload say
	Egress          []SidecarEgress   // nil: whatever exportTo lets them see
	Pool            *ConnectionPool   // of all inbound ports
	AllowAny        *bool             // outboundTrafficPolicy; nil: the mesh's
	EgressProxy     *Backend          // where unknown destinations are sent when any is allowed
	Origin          Origin
}

// SidecarIngress is one inbound port.
type SidecarIngress struct {
	Port     Port
	App      uint16 // port of the program; 0: the same
	Loopback bool   // the program listens on loopback, not on the workload's address
	Pool     *ConnectionPool
	Origin   Origin
}

// SidecarEgress names services that may be called: at one port, or, without a
// port, at each port that no other one names.
type SidecarEgress struct {
	Port   *Port // nil: every port that no other one names
	Bind   string
	Socket bool // a real socket at Bind and Port instead of captured connections
	Hosts  []SidecarHost
	Origin Origin
}

// SidecarHost is "namespace/host": hosts under Host, of Namespace ("*": of any,
// ".": of the client's). Not takes them away again.
type SidecarHost struct {
	Not             bool
	Namespace, Host string
}

// String is as the user wrote it.
func (h SidecarHost) String() string {
	s := h.Namespace + "/" + h.Host
	if h.Not {
		return "~" + s
	}
	return s
}

func textSidecar(f *form, x *SidecarPolicy) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	f.labels("select", &x.Selector)
	optional(f, "allow-any", &x.AllowAny, strconv.FormatBool, strconv.ParseBool)
	each(f, "in", &x.Ingress, func(f *form, x *SidecarIngress) {
		f.note(&x.Origin)
		textPort(f, &x.Port)
		uintAttr(f, "app", &x.App)
		f.flag("loopback", &x.Loopback)
		one(f, "pool", &x.Pool, textPool)
	})
	each(f, "out", &x.Egress, func(f *form, x *SidecarEgress) {
		f.note(&x.Origin)
		f.str("bind", &x.Bind)
		f.flag("socket", &x.Socket)
		one(f, "port", &x.Port, textPort)
		each(f, "host", &x.Hosts, func(f *form, x *SidecarHost) {
			f.ref(&x.Namespace, &x.Host)
			f.flag("not", &x.Not)
		})
	})
	one(f, "pool", &x.Pool, textPool)
	one(f, "proxy", &x.EgressProxy, textBackend)
}
