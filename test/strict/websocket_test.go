package strict

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// wsFrame makes a frame (RFC 6455 5.2), masked as a client's must be. head is
// its first byte: FIN, reserved bits, opcode.
func wsFrame(head byte, payload string, masked bool) []byte {
	b := []byte{head, 0}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if !masked {
		return append(b, payload...)
	}
	b[1] |= 0x80
	mask := [4]byte{0x12, 0x00, 0xff, 0x80}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

// Opcodes with FIN, without it, and with all reserved bits.
const (
	fin, rsv                         = 0x80, 0x70
	wsMore, wsText, wsBinary         = 0, 1, 2
	wsClose, wsPing, wsPong, wsOther = 8, 9, 10, 0xb
)

// wsCases are what either side says, in one go.
func wsCases() map[string][][2]any {
	big := strings.Repeat("0123456789abcdef", 1<<16)
	cases := map[string][][2]any{
		"text":                       {{fin | wsText, "Hello-µ@ßöäüàá-UTF-8!!"}},
		"four bytes a letter":        {{fin | wsText, "\U0001F600\U0010FFFF"}},
		"not UTF-8":                  {{fin | wsText, "\xce\xba\xe1\xbd\xb9\xed\xa0\x80"}}, // an end's business
		"empty":                      {{fin | wsText, ""}, {fin | wsBinary, ""}, {fin | wsPing, ""}, {fin | wsPong, ""}},
		"empty fragments":            {{wsText, ""}, {wsMore, ""}, {fin | wsMore, ""}},
		"1 MiB":                      {{fin | wsBinary, big}},
		"fragments":                  {{wsText, "frag"}, {wsMore, "men"}, {fin | wsMore, "ts"}},
		"a letter in two":            {{wsText, "\xce"}, {fin | wsMore, "\xba"}},
		"ping and pong in fragments": {{wsText, "one"}, {fin | wsPing, "p"}, {wsMore, "two"}, {fin | wsPong, "q"}, {fin | wsMore, "three"}},
		"pong unasked":               {{fin | wsPong, "x"}},
		"ping of 125":                {{fin | wsPing, big[:125]}},
		"ping of 126":                {{fin | wsPing, big[:126]}}, // an end's business
		"reserved bits":              {{fin | rsv | wsText, "squeezed"}, {rsv | wsBinary, ""}, {fin | wsMore, "x"}},
		"reserved opcodes":           {{fin | 3, "x"}, {fin | wsOther, "y"}, {fin | 15, ""}},
		"close without a code":       {{fin | wsClose, ""}},
		"close of one byte":          {{fin | wsClose, "\x03"}},
		"close and more":             {{fin | wsClose, "\x03\xe8"}, {fin | wsText, "late"}},
	}
	for _, n := range []int{125, 126, 127, 128, 65535, 65536} {
		cases[fmt.Sprintf("%d bytes", n)] = [][2]any{{fin | wsBinary, big[:n]}}
	}
	for _, n := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4999, 999, 1005, 65535} {
		cases[fmt.Sprintf("close %d", n)] = [][2]any{{fin | wsClose, string(binary.BigEndian.AppendUint16(nil, uint16(n))) + "why"}}
	}
	var many [][2]any
	for i := range 300 {
		many = append(many, [2]any{fin | wsPing, fmt.Sprint(i)}, [2]any{i % 2, "z"})
	}
	cases["300 pings in a row"] = many
	return cases
}

// TestWebSocket: what the two ends of a WebSocket say reaches the other byte
// for byte, both ways at once, with each end's half close; whether it makes
// sense is for the ends to judge.
func TestWebSocket(t *testing.T) {
	topologies(t, func(t *testing.T, start func(string) string) {
		said := make(chan []byte)  // what the program is to say
		heard := make(chan []byte) // what it heard
		addr := start(listen(t, func(c net.Conn) { wsServe(c, said, heard) }))
		for name, frames := range wsCases() {
			var down, up []byte
			for _, f := range frames {
				down = append(down, wsFrame(byte(f[0].(int)), f[1].(string), false)...)
				up = append(up, wsFrame(byte(f[0].(int)), f[1].(string), true)...)
			}
			c := connect(t, addr)
			in := bufio.NewReader(c)
			fmt.Fprint(c, "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n"+
				"sec-websocket-protocol: chat\r\nsec-websocket-extensions: permessage-deflate\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			r, err := http.ReadResponse(in, nil)
			if err != nil || r.StatusCode != 101 || r.Header.Get("sec-websocket-accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" ||
				r.Header.Get("sec-websocket-extensions") != "permessage-deflate" || r.Header.Get("sec-websocket-protocol") != "chat" {
				t.Fatalf("%s: %v %v", name, r, err)
			}
			said <- down
			go func() {
				_, _ = c.Write(up)
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(in)
			if want := append(down, "bye"...); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: the client hears %d bytes of %d, %v", name, len(got), len(want), err)
			}
			if got := <-heard; !bytes.Equal(got, up) {
				t.Errorf("%s: the program hears %d bytes of %d", name, len(got), len(up))
			}
			_ = c.Close()
		}
	})
}

// wsServe says what it is told, and when the client has ended its side tells
// what it heard and says goodbye on its own.
func wsServe(c net.Conn, said, heard chan []byte) {
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"+
		"sec-websocket-accept: %s\r\nsec-websocket-protocol: %s\r\nsec-websocket-extensions: %s\r\n\r\n",
		wsAccept(r.Header.Get("sec-websocket-key")), r.Header.Get("sec-websocket-protocol"), r.Header.Get("sec-websocket-extensions"))
	down := <-said
	wrote := make(chan bool)
	go func() {
		_, _ = c.Write(down)
		close(wrote)
	}()
	b, _ := io.ReadAll(in)
	<-wrote
	fmt.Fprint(c, "bye")
	_ = c.(*net.TCPConn).CloseWrite()
	heard <- b
}

// wsAccept answers a key (RFC 6455 4.2.2).
func wsAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
