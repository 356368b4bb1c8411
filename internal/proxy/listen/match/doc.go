// Package match chooses the filter chain of a connection, and the listener that
// a captured connection belongs to.
//
// In: a listener's chains and what is known of a connection: where from, where
// to, TLS or not, server name, protocols. Out: a chain, in Envoy's order of
// specificity (envoy.config.listener.v3.FilterChainMatch), or none; and whether
// a connection must be read before that can be told.
//
// Pure: no sockets, no clock. The proxy and explain decide by the same code.
// What does not belong here: reading connections (see listen).
package match
