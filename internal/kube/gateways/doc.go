// Package gateways runs the Gateways of the Gateway API: a Deployment with its
// Service, ServiceAccount, PodDisruptionBudget and, where asked for, an
// autoscaler for every Gateway of a class of ours, and the classes themselves.
//
// In: the user's objects and what the readers made of them, the settings of
// injection. Out: server-side applies with the Gateway as owner, so that what a
// user adds to the objects stays, and all goes with the Gateway. Only a leader
// should run it.
//
// What does not belong here: what a Gateway means (dialect/gatewayapi), its
// status (kube/status), the gateways of an installation (kube/install).
package gateways
