// Package loop runs connections on event loops.
//
// In: file descriptors (accepted or dialled), codecs that are driven by them
// (stream.Codec), timers, and functions posted from other goroutines. Out:
// bytes, events and time, delivered on the one goroutine that owns the
// connection. Beside the loops it keeps the work gate, through which all work
// that costs CPU and is not bound to a loop has to pass.
//
// A loop is an ordinary goroutine. Its epoll set is itself watched by Go's
// netpoller, so that a loop without work costs no thread and no processor, and
// a busy one asks the kernel without blocking. Sockets are registered once,
// edge-triggered; a read that comes back short is the end of what there was.
// A connection owns memory only while something is partial or blocked.
//
// Everything except what is named otherwise (Post, Load, Group and Gate) must
// be called on the loop that owns the object. Builds with the tag tulle_debug
// check that.
//
// What does not belong here: protocols, TLS handshakes (see mtls), listening
// sockets (see listen), policy.
package loop
