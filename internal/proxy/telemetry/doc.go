// Package telemetry tells what happened: response flags, metrics, the access
// log.
//
// In: a Record of every finished request or connection, filled by exchange and
// tcp on their loop. Out: counters that a scrape turns into Prometheus text
// with Istio's names and labels, and lines for the access log.
//
// Nothing on a loop waits: counters are atomics of that loop, log lines go
// into a bounded ring of the loop which one goroutine drains to stdout or a
// file; when a ring is full the line is dropped and counted. Label sets are
// bounded and expire. Set owns that goroutine; Close ends it.
//
// What does not belong here: deciding anything, and serving HTTP.
package telemetry
