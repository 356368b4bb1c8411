// Package ca is the mesh's certificate authority: a root of its own making,
// and workload certificates signed by it.
//
// In: a directory that keeps the root, CSRs, and the authenticated identity of
// whoever sent one. Out: certificate chains and the trust bundle, in PEM; and
// the gRPC service istio.v1.auth.IstioCertificateService in front of them.
//
// What does not belong here: deciding who a caller is (control), and keeping
// workload keys (the workload makes and keeps its own; the exception is
// Authority.Issue, for clients that cannot).
package ca
