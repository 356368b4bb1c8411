// Package istio reads Istio's configuration objects into the model.
//
// In: objects of the groups *.istio.io in every served version. Out: services
// and workloads (ServiceEntry, WorkloadEntry), route sets (VirtualService),
// destination policies (DestinationRule), gateways, mTLS and authorization
// policies, and notices: for what breaks Istio's own rules, for fields that
// the API does not have, and for fields that Tulle does not act on. A field
// that is not in the table of fields.go cannot be passed over in silence.
//
// A rejected object is not in effect. The exception is AuthorizationPolicy,
// which fails closed: what is not understood never allows and always denies.
//
// What does not belong here: short host names, merging and precedence, and
// defaults (link).
package istio
