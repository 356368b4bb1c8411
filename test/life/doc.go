// Package life runs proxies as real processes beside a real control plane, and
// tests how they live: start, drain, hand over, run out of things, end.
//
// In: YAML as users write it. Out: processes whose sockets, signals, memory and
// descriptors a test can look at; the test's own binary is the proxy, see Main.
//
// What does not belong here: what requests are answered (judge, wire).
package life
