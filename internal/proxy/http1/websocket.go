package http1

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
)

// appendAccept appends the Sec-WebSocket-Accept of a key (RFC 6455 4.2.2).
func appendAccept(o, key []byte) []byte {
	var buf [24 + 36]byte
	b := append(buf[:0], key...)
	b = append(b, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...)
	sum := sha1.Sum(b)
	return base64.StdEncoding.AppendEncode(o, sum[:])
}

// newKey makes a Sec-WebSocket-Key for a handshake that came without one, as
// those from HTTP/2 do (RFC 8441 5).
func newKey() (key [24]byte) {
	var b [16]byte
	rand.Read(b[:])
	base64.StdEncoding.Encode(key[:], b[:])
	return key
}
