// Package kube is what a pod asks of its sidecar or gateway beside traffic:
// Istio's contract of environment, files, ports and questions.
//
// In: the environment and the mounted files of a container that the injector
// made (all of their names stand in environment.go), and the kubelet's and
// Prometheus' questions. Out: a Pod, answers to probes, the program's metrics.
// What does not belong here: listening (proxy), redirect rules (capture), what
// a pod looks like (kube/inject on the control side). Nothing of k8s.io.
package kube
