package gatewayapi

import (
	"slices"

	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
)

// policy is a BackendTLSPolicy.
type policy struct {
	*dialect.Report
	spec v1.BackendTLSPolicySpec
}

// noName is a name that no certificate has: with it no connection succeeds.
const noName = "no-certificate.invalid"

// settlePolicies makes destination policies, oldest first: of two for one target
// the older one is in effect. One whose CA certificates are not usable lets no
// connection succeed.
func (w *world) settlePolicies() {
	slices.SortStableFunc(w.policies, func(a, b *policy) int { return byAge(a.Object, b.Object) })
	type target struct {
		service model.Ref
		section string
	}
	taken := map[target]bool{}
	for _, p := range w.policies {
		tls, refs := w.clientTLS(p)
		var accepted problem
		if refs.reason != "" {
			accepted.set("NoValidCACertificate", "%s", refs.text)
		}
		for i, t := range p.spec.TargetRefs {
			path := at("spec.targetRefs", i)
			ref := model.Ref{Namespace: p.Object.Namespace, Name: string(t.Name)}
			s := w.services[ref]
			key := target{ref, string(or(t.SectionName, ""))}
			switch {
			case t.Group != "" || t.Kind != "Service":
				accepted.set("Invalid", "%s %s is no Service", t.Kind, t.Name)
			case s == nil:
				accepted.set("TargetNotFound", "Service %s/%s is not there", ref.Namespace, ref.Name)
			case taken[key]:
				accepted.set("Conflicted", "an older BackendTLSPolicy has Service %s", ref.Name)
			default:
				taken[key] = true
				out := &model.DestinationPolicy{Name: p.Object.Name, Namespace: p.Object.Namespace, Host: w.fqdn(ref), Origin: p.Object.Origin(path)}
				if key.section == "" {
					out.Policy.TLS = tls
				}
				for _, sp := range s.Spec.Ports {
					if key.section != "" && sp.Name == key.section {
						out.Policy.Ports = append(out.Policy.Ports, model.PortPolicy{Port: uint16(sp.Port), TrafficPolicy: model.TrafficPolicy{TLS: tls}})
					}
				}
				w.out.Destinations = append(w.out.Destinations, out)
				continue
			}
			p.Add(model.Error, model.NotFound, path, "%s", accepted.text)
		}
		w.policyStatus(p, accepted, refs)
	}
}

// clientTLS is how backends are spoken to.
func (w *world) clientTLS(p *policy) (*model.ClientTLS, problem) {
	v := p.spec.Validation
	out := &model.ClientTLS{Mode: model.TLSSimple, SNI: string(v.Hostname), SANs: []string{string(v.Hostname)}, Origin: p.Object.Origin("spec.validation")}
	if len(v.SubjectAltNames) > 0 {
		out.SANs = nil
		for _, s := range v.SubjectAltNames {
			if s.Type == v1.URISubjectAltNameType {
				out.SANs = append(out.SANs, string(s.URI))
			} else {
				out.SANs = append(out.SANs, string(s.Hostname))
			}
		}
	}
	var bad problem
	for i, c := range v.CACertificateRefs {
		ca, why := w.bundle(string(c.Group), string(c.Kind), model.Ref{Namespace: p.Object.Namespace, Name: string(c.Name)})
		if why.reason == "InvalidCACertificateKind" {
			why.reason = "InvalidKind"
		}
		if why.reason != "" {
			bad.set(why.reason, "%s", why.text)
			p.Add(model.Error, model.NotFound, at("spec.validation.caCertificateRefs", i), "%s", why.text)
		}
		out.CA += ca
	}
	if out.CA != "" {
		return out, problem{}
	}
	if v.WellKnownCACertificates == nil || *v.WellKnownCACertificates != v1.WellKnownCACertificatesSystem {
		bad.set("InvalidCACertificateRef", "there are no CA certificates to check backends with")
		out.SANs = []string{noName}
	}
	return out, bad
}

// policyStatus tells of a policy towards each Gateway whose routes lead to its
// Services.
func (w *world) policyStatus(p *policy, accepted, refs problem) {
	s := &model.Status{APIVersion: p.Object.APIVersion, Origin: p.Object.Origin("")}
	for _, g := range w.order {
		if !w.leads(g, p) {
			continue
		}
		s.Parts = append(s.Parts, model.StatusPart{
			Group: group, Kind: "Gateway", Namespace: g.ref.Namespace, Name: g.ref.Name,
			Conditions: []model.Condition{accepted.condition("Accepted"), refs.condition("ResolvedRefs")},
		})
	}
	if len(s.Parts) > 0 {
		w.out.Statuses = append(w.out.Statuses, s)
	}
}

// leads reports whether a route of a Gateway has a target of a policy.
func (w *world) leads(g *gateway, p *policy) bool {
	target := func(r *route) bool {
		return slices.ContainsFunc(r.used, func(ref model.Ref) bool {
			return ref.Namespace == p.Object.Namespace && slices.ContainsFunc(p.spec.TargetRefs, func(t v1.LocalPolicyTargetReferenceWithSectionName) bool {
				return string(t.Name) == ref.Name
			})
		})
	}
	for _, l := range g.listeners {
		for _, list := range l.hosts {
			if slices.ContainsFunc(list, func(x httpRule) bool { return target(x.route) }) {
				return true
			}
		}
		if slices.ContainsFunc(l.l4, func(a l4Attached) bool { return target(a.route) }) {
			return true
		}
	}
	return false
}
