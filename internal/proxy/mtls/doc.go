// Package mtls puts TLS on connections of an event loop and says who the peer
// is.
//
// In: a connection, the TLS settings of a filter chain or cluster, and the
// certificates of the moment, read by name at every handshake. Out: the same
// connection under TLS, and a Handshake: protocol, names, and the identity
// that was verified.
//
// The handshake is crypto/tls's, in a goroutine behind the work gate, fed with
// bytes by the loop; the slot is given up while it waits for the peer. After
// it the same tls.Conn is driven from memory on the loop. There is no record
// layer of our own. Certificates are checked in one function, on every
// handshake, against the bundle that holds then; it can be run again later.
//
// What does not belong here: which connections get TLS at all (listen and the
// filter chains), who may do what (filter/rbac), where certificates come from
// (feed).
package mtls
