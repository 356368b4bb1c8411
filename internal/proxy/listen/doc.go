// Package listen accepts connections and finds out what they are.
//
// In: the listeners of the moment. Out: connections, each on the loop with the
// least work, with the listener and filter chain that were chosen for it, and
// the bytes that had to be read for that.
//
// There is one listening socket per address. Where a listener asks for it, the
// address that a captured connection was going to before it was redirected is
// read back, and the TLS ClientHello or the first line of HTTP is looked at;
// connections whose chain does not depend on these are not read, so that
// protocols in which the server speaks first are not kept waiting.
//
// What does not belong here: which chain fits (see match), TLS itself (mtls),
// what is done with the connection.
package listen
