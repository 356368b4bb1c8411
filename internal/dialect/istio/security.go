package istio

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	security "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/tulle-mesh/tulle/internal/model"
)

var mtlsModes = map[security.PeerAuthentication_MutualTLS_Mode]model.MTLSMode{
	security.PeerAuthentication_MutualTLS_UNSET: model.MTLSUnset, security.PeerAuthentication_MutualTLS_DISABLE: model.MTLSDisable,
	security.PeerAuthentication_MutualTLS_PERMISSIVE: model.MTLSPermissive, security.PeerAuthentication_MutualTLS_STRICT: model.MTLSStrict,
}

// readPeerAuthentication fails closed: what is not wholly understood asks for mTLS
// on every port of whom it selects, which may be more than were meant.
func readPeerAuthentication(r *reading, m proto.Message, out *model.Fragment) {
	pa := m.(*security.PeerAuthentication)
	p := &model.MTLSPolicy{
		Name: r.Object.Name, Namespace: r.Object.Namespace,
		Selector: r.selector("spec.selector", pa.Selector),
		Mode:     mtlsModes[pa.GetMtls().GetMode()],
		Origin:   r.at(""),
	}
	if len(pa.PortLevelMtls) > 0 && p.Selector == nil {
		// The mode stays: without it STRICT would be off.
		r.part(model.Invalid, "spec.portLevelMtls", "needs a selector, for ports are those of chosen workloads: it is ignored")
		pa.PortLevelMtls = nil
	}
	for _, n := range slices.Sorted(maps.Keys(pa.PortLevelMtls)) {
		at := "spec.portLevelMtls." + portKey(n)
		if p.Ports == nil {
			p.Ports = make(map[uint16]model.MTLSMode)
		}
		p.Ports[r.port(at, n, false)] = mtlsModes[pa.PortLevelMtls[n].GetMode()]
	}
	if r.fatal() {
		r.Invalid("", "the policy is not wholly understood: STRICT is taken, on all ports")
		p.Mode, p.Ports = model.MTLSStrict, nil
	}
	out.MTLS = append(out.MTLS, p)
}

// selector gives nil when nothing is selected by labels.
func (r *reading) selector(path string, s *typev1beta1.WorkloadSelector) map[string]string {
	return r.labels(path+".matchLabels", s.GetMatchLabels())
}

func portKey(n uint32) string {
	if n == 0 {
		return "0"
	}
	var digits []byte
	for ; n > 0; n /= 10 {
		digits = append(digits, byte('0'+n%10))
	}
	slices.Reverse(digits)
	return string(digits)
}

func readAuthorizationPolicy(r *reading, m proto.Message, out *model.Fragment) {
	ap := m.(*security.AuthorizationPolicy)
	a := authz{r: r, p: &model.AuthzPolicy{
		Name: r.Object.Name, Namespace: r.Object.Namespace,
		Action: model.AuthzAction(ap.Action), Provider: ap.GetProvider().GetName(),
		DryRun: r.dryRun(), Origin: r.at(""),
	}}
	a.scope(ap)
	if ap.Action == security.AuthorizationPolicy_CUSTOM && a.p.Provider == "" {
		r.Invalid("spec.provider.name", "is needed by action CUSTOM: until it is given, what the rules match is denied")
		a.p.Action = model.Deny
	}
	if ap.Action != security.AuthorizationPolicy_CUSTOM && ap.GetProvider() != nil {
		r.Invalid("spec.provider", "acts with action CUSTOM alone")
	}
	a.rules(ap)
	if a.nowhere {
		return
	}
	out.Authz = append(out.Authz, a.p)
}

// dryRun reads Istio's annotation; a value that is no boolean is not one.
func (r *reading) dryRun() bool {
	v, ok := r.Object.Annotations["istio.io/dry-run"]
	if !ok {
		return false
	}
	switch strings.ToLower(v) {
	case "true", "1", "t":
		return true
	case "false", "0", "f":
	default:
		r.Invalid("metadata.annotations.istio.io/dry-run", "%q is neither true nor false: the policy is in effect", clip(v))
	}
	return false
}
