// Package rpc calls gRPC methods over the proxy's own HTTP/2, beside the event
// loops: a few long streams and an exchange now and then, on one connection.
//
// In: messages as bytes, a function that dials. Out: messages as bytes, and
// errors: a *Status when the other side answered so, or one that wraps
// ErrUnreachable when nobody was reached.
//
// A connection has two ordinary goroutines, one that reads and one that
// writes; the codec and everything of its streams is behind the connection's
// lock. Everything is bounded: messages by Options.MaxMessage, what is read
// ahead of Recv by one message and the stream's window (a stream that is not
// read gives no credit), what is sent ahead by the codec's water mark, silence
// by pings, writes and greetings by time.
//
// A connection whose peer says goodbye (GOAWAY) ends its long streams, so that
// they move at once; exchanges on it may finish, new ones go to another.
//
// What does not belong here: what messages mean, when to try again (feed),
// compression of messages (never offered), more than one address, load
// balancing.
package rpc
