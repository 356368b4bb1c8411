// Package gatewayapi reads the Kubernetes Gateway API into the model.
//
// In: objects of the group gateway.networking.k8s.io; Services, Namespaces,
// Secrets and ConfigMaps are looked at to follow references. Out: closed
// Gateways, settled RouteSets (one for every host of a listener, and of a
// Service that routes have as parent, with the rules of all its routes in the
// API's order of precedence), destination policies, notices, and the status of
// every object in the API's own words.
//
// A reference that is not there or not granted never falls back to anything: its
// share of the requests is answered with 500.
//
// What does not belong here: writing status, addresses and what is deployed for
// a Gateway (they need a cluster).
package gatewayapi
