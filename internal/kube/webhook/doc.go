// Package webhook answers the API server's questions: which sidecar a new pod
// gets (/inject), and what is wrong with an object (/validate).
//
// In: AdmissionReviews over HTTPS, the settings of injection, which live in a
// ConfigMap, and what namespaces and nodes are. Out: patches, refusals,
// warnings. It also writes the authority's roots into its own webhook
// configurations, and closes the validating one once it is known to work.
// What does not belong here: what a pod gets (inject), what is valid (the
// dialects), serving certificates (control).
package webhook
