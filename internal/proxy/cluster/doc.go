// Package cluster holds what is alive about destinations: the handle of each
// cluster, with its limits and its endpoints' health, and the picking of an
// endpoint.
//
// In: snapshots of conf (Registry.Apply), answers of the DNS, and the outcome
// of every attempt (Handle.Done). Out: an Endpoint, or a Failure that says why
// there is none.
//
// A Handle outlives configuration: counters, ejections and the state of an
// endpoint's address stay when a cluster or its endpoints are replaced. Loops
// read through atomic pointers and never wait for a lock; Apply, Tick and the
// resolver's goroutines run off the loops and do all building (round-robin
// orders, rings, tables). There is no goroutine but one per DNS question in
// flight; the owner calls Tick about ten times a second.
//
// What does not belong here: connections (pool), routes, retries.
package cluster
