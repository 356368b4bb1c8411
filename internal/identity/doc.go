// Package identity is who a workload is: its SPIFFE ID, the trust domains that
// count as ours, and the authenticated caller that these make.
//
// In: URIs and certificates. Out: plain values, safe to copy and compare.
//
// What does not belong here: signing (ca), TLS configuration (proxy/mtls), and
// how a caller proves itself (control). Standard library only; both programs
// import this room.
package identity
