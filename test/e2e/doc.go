// Package e2e is what users do on a real Kubernetes cluster, end to end.
//
// In: root, and what package cluster needs. Out: verdicts of `make e2e`; the
// tests have the build tag e2e, since a plain `go test ./...` must not build
// Kubernetes. What does not belong here: the cluster itself (test/cluster).
package e2e
