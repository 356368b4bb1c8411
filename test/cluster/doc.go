// Package cluster runs a real Kubernetes cluster for tests, on this machine and
// gone with the test: stock components built from their Go modules, containerd
// and runc, nodes as sets of namespaces, images without a registry.
//
// In: a context and Options; root; containerd, runc, CNI plugins, iptables and
// iproute2 on the PATH. Out: a Cluster with a kubeconfig that works from
// outside, Kubectl, Dial and In for what happens inside.
//
// The control plane is a place of its own, each node another, and all their
// addresses are inside: two clusters on one machine know nothing of each other
// and nothing of the machine's network changes. Only the API server is
// reachable from outside, at a loopback port that this process forwards. A
// guard process holds the places; when this process dies, however that happens,
// the guard ends them and removes what is left.
//
// The cluster is dual-stack: nodes 172.30.0.0/24 and fd30::/64, pods
// 10.244.N.0/24 and fd44:0:0:N::/64, Services 10.96.0.0/16 and fd96::/112.
//
// What does not belong here: anything that knows Tulle.
package cluster
