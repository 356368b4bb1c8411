// Package ext is what control plane and sidecar say to each other beyond
// Envoy's messages: the index of the mesh, the answer to a question for a name,
// and how things are called that a sidecar on demand asks for. See ARCHITECTURE.md,
// "On demand: the contract".
//
// In and out: values and their bytes. Messages are protobuf, written field by
// field: they are few, and the proxy is to stay small. Fields are only ever
// added, and unknown ones are passed over.
//
// What does not belong here: who asks for what and when (proxy/feed), and what
// the answer is (link, lower, control).
package ext
