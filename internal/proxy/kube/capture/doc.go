// Package capture sends a pod's traffic to its sidecar: `tulle-proxy redirect`,
// with the flags of istio-iptables, and iptables' own listing of it.
//
// In: command lines. Out: redirect's plan in the kernel, checked; a record of
// it for who may not ask the kernel; listings.
// What does not belong here: how rules are made (redirect).
package capture
