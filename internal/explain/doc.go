// Package explain tells what would happen to a request, and why, from files
// alone.
//
// In: a compiled configuration and a Query: who calls, what is called. Out: an
// Answer, decided by the proxy's own code: the caller's View is lowered to xDS
// resources, those are decoded by the proxy's decoders, then listener, filter
// chain, filters, virtual host, route and rewrite are run as a proxy runs them;
// the same again at the destination for its inbound policies. Every step names
// the user's object, its field and file:line where one decided.
//
// What does not belong here: decisions of its own, network, and printing of
// anything but an Answer.
package explain
