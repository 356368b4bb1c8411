// Package demand is where the loops of a sidecar on demand look up what they
// meet for the first time, and wait for it.
//
// In: what is known (conf.Learnt) and which lookups are answered, from the feed.
// Out: lookups to the feed, on a channel that nobody waits to write, and calls on
// the loops of those that wait. One that waits is told once: by the answer, or
// after Patience, or never when it gave up itself. It is an object of its own, so
// that whoever waits may be reused meanwhile.
//
// What does not belong here: what is asked for (listen, exchange, dns), and the
// bounds of what the control plane is asked (feed).
package demand
