// Package route decides what is done with a request: which virtual host,
// which route, which cluster, and how the request is changed on its way.
//
// In: a request head, a few facts about its connection, and the route nodes of
// conf. Out: nodes picked, or the head rewritten in place. Everything is pure:
// no clock, no randomness of its own, no state. With a nil Why nothing is
// allocated for literal configuration; regular-expression rewrites allocate
// their result.
//
// The semantics are Envoy's (RouteMatcher, HeaderUtility, PathUtil,
// HeaderParser); where a rule is not obvious the comment names it.
//
// What does not belong here: endpoints (cluster), filters, and anything that
// waits.
package route
