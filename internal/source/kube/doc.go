// Package kube gives snapshots of the objects of a Kubernetes cluster.
//
// In: a REST configuration. Out: source.Snapshots of everything that a mesh may
// read: Services, EndpointSlices, Pods, Nodes, Namespaces, Secrets, ConfigMaps,
// Ingresses, and the kinds of Istio and of the Gateway API that have a CRD in
// the cluster, which may come and go.
//
// The first snapshot waits until every kind was listed: a mesh without, say,
// the authorization policies would let through what it must not. After that
// what was last known stays in effect while the API server is away, with a
// notice. Of each object only what a mesh reads is kept, as JSON: no managed
// fields, no status that nobody reads, no key of a Secret or ConfigMap that is
// not about certificates.
//
// What does not belong here: what an object means (dialect), writing to the
// cluster.
package kube
