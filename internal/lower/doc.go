// Package lower writes a View down as xDS v3 resources with Istio's names.
//
// In: one model.View, in which everything is already chosen. Out: named
// resources as deterministic bytes of the published Envoy messages (a stock
// Envoy takes them, no Istio extension is used), a side table from the origin
// ids that stand in the resources to model.Origin, and notices about what
// could not be written down. Resources hold ids only, never a file or a line,
// so that moving an object within its file changes no byte.
//
// One resource is made at a time (Lowering.Resource), so that a caller may
// keep what it has. One file per resource kind: cluster, endpoint, listener
// (outbound), inbound, gateway, route, secret; what they share stands in tls,
// hcm, tcp, rbac, match, accesslog.
//
// What does not belong here: choices (link), versions and streams (xds),
// workload certificates (ca), any I/O. Pure.
package lower
