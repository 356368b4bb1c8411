// Package inject gives pods their sidecar: Istio's contract of labels,
// annotations, container names and ports, with tulle-proxy in the container.
//
// In: a Pod (or an object with a pod template) as JSON, the labels of its
// namespace, and the mesh's Config. Out: whether it gets a sidecar and why, and
// the JSON patch that adds it.
// What does not belong here: serving the webhook, reading clusters, and what the
// proxy does with its environment.
package inject
