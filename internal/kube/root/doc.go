// Package root keeps the certificate authority's key in a Secret, which all
// replicas of the control plane share, and its roots in every namespace, where
// proxies find them.
//
// In: the control plane's namespace. Out: the authority's material, now and when
// it changes; ConfigMaps. Names and keys are Istio's, so that a mesh keeps its
// root when its control plane is replaced: cacerts is the user's own authority,
// istio-ca-secret one of our making.
// What does not belong here: signing (ca), and who may write (lease).
package root
