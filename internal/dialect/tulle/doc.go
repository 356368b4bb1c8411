// Package tulle reads our own API, traffic.tulle.dev: what users of other meshes
// must patch their proxies' configuration for.
//
// In: RequestPolicy. Out: model.RequestPolicy and notices.
//
// What does not belong here: which workloads a policy is for (link), and the
// kinds' definitions for Kubernetes (kube/install).
package tulle
