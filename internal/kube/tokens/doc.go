// Package tokens finds out whose a service account's token is, by asking the
// cluster's API server (TokenReview).
//
// In: bearer tokens of proxies. Out: callers with identity and pod.
// What does not belong here: whether the pod exists in the mesh and what it may
// have (control).
package tokens
