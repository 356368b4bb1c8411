// Package wire drives whole proxies over real sockets: what passes through two
// sidecars with mTLS, what is counted, what stays when things break.
package wire
