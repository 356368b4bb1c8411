// Package ingress reads Kubernetes Ingresses into the model.
//
// In: Ingress and IngressClass (networking.k8s.io/v1); Services are looked at for
// ports that are named. Out: one Gateway and one settled RouteSet per host, for
// the gateways that Istio's class istio means (label istio=ingressgateway), and
// notices. Ingresses of other classes are somebody else's.
//
// What does not belong here: annotations of other controllers, writing status.
package ingress
