// Package kubernetes reads the core Kubernetes objects into the model.
//
// In: Namespaces, Services, EndpointSlices, Pods, the workload kinds with a pod
// template, Secrets, and ServiceAccounts, which stand beside them harmlessly.
// Out: namespaces, services with their listed endpoints, workloads, secrets, and
// notices for unknown fields and wrong types.
//
// Only the fields that a mesh acts on are judged. What concerns the kubelet or
// the scheduler is neither checked nor told.
//
// What does not belong here: selecting workloads for services, and routes
// (Ingress and the Gateway API are dialects of their own).
package kubernetes
