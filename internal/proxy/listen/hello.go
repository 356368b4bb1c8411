package listen

import "strings"

// verdict of looking at the first bytes of a connection.
type verdict uint8

const (
	more verdict = iota // cannot be told yet
	yes
	no
)

// maxHello bounds what is read of a ClientHello.
const maxHello = 64 << 10

// hello is what a ClientHello says of itself.
type hello struct {
	sni  string // lower-case
	alpn []string
}

// parseHello looks for a TLS ClientHello (RFC 8446 sections 5.1 and 4.1.2) at
// the beginning of b. It may be cut into records anyhow. What begins like one
// but cannot be read is none: such bytes are passed on untouched.
func parseHello(b []byte) (hello, verdict) {
	const (
		handshake   = 22
		clientHello = 1
		maxRecord   = 16 << 10
	)
	var msg []byte // handshake bytes of all records so far
	for rest, n := b, 0; ; n++ {
		if len(rest) > 0 && rest[0] != handshake || len(rest) > 1 && rest[1] != 3 {
			return hello{}, no
		}
		if len(rest) < 5 {
			return hello{}, more
		}
		size := int(rest[3])<<8 | int(rest[4])
		if size == 0 || size > maxRecord {
			return hello{}, no
		}
		part := rest[5:min(len(rest), 5+size)]
		if n == 0 {
			msg = part
		} else {
			msg = append(msg[:len(msg):len(msg)], part...)
		}
		if len(msg) > 0 && msg[0] != clientHello {
			return hello{}, no
		}
		if len(msg) >= 4 {
			size := int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3])
			if size > maxHello {
				return hello{}, no
			}
			if len(msg) >= 4+size {
				return readHello(msg[4 : 4+size])
			}
		}
		if len(rest) < 5+size {
			return hello{}, more
		}
		rest = rest[5+size:]
	}
}

// readHello reads the body of a ClientHello.
func readHello(b []byte) (hello, verdict) {
	var h hello
	r := reader{b, true}
	r.take(2 + 32)      // version, random
	r.take(r.number(1)) // session id
	r.take(r.number(2)) // cipher suites
	r.take(r.number(1)) // compression methods
	if !r.ok {
		return h, no
	}
	if len(r.b) == 0 {
		return h, yes // no extensions
	}
	ext := reader{r.take(r.number(2)), r.ok}
	for ext.ok && len(ext.b) > 0 {
		kind := ext.number(2)
		body := reader{ext.take(ext.number(2)), ext.ok}
		switch kind {
		case 0: // server_name, RFC 6066 section 3
			list := reader{body.take(body.number(2)), body.ok}
			for list.ok && len(list.b) > 0 {
				kind := list.number(1)
				name := list.take(list.number(2))
				if kind == 0 && h.sni == "" {
					if len(name) == 0 || len(name) > 255 || !printable(name) {
						return hello{}, no
					}
					h.sni = strings.ToLower(string(name))
				}
			}
			body.ok = body.ok && list.ok
		case 16: // application_layer_protocol_negotiation, RFC 7301 section 3.1
			list := reader{body.take(body.number(2)), body.ok}
			for list.ok && len(list.b) > 0 {
				h.alpn = append(h.alpn, string(list.take(list.number(1))))
			}
			body.ok = body.ok && list.ok
		}
		ext.ok = ext.ok && body.ok
	}
	if !r.ok || !ext.ok {
		return hello{}, no
	}
	return h, yes
}

func printable(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// reader takes fields off b; ok is false after the first that is not there.
type reader struct {
	b  []byte
	ok bool
}

func (r *reader) take(n int) []byte {
	if !r.ok || n > len(r.b) {
		r.ok = false
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) number(bytes int) int {
	n := 0
	for _, c := range r.take(bytes) {
		n = n<<8 | int(c)
	}
	return n
}
