// Package proxytest runs proxies on loopback for tests.
//
// In: configuration made by hand. Out: running proxies, alone or as the two
// sidecars of a call with mTLS between them, and what they count.
//
// What does not belong here: xDS, assertions about requests.
package proxytest
