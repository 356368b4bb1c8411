package strict

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// frame makes an HTTP/2 frame (RFC 9113 4.1).
func frame(kind, flags byte, id uint32, payload string) string {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return string(binary.BigEndian.AppendUint32(b, id)) + payload
}

const (
	get     = "\x82\x86\x84\x41\x01a"                                                     // GET http://a/ in HPACK
	post    = "\x83\x86\x84\x41\x01a"                                                     // POST
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // with empty SETTINGS
)

// goodbye sends frames until the proxy ends the connection, and returns the
// code of its GOAWAY; -1: it never did.
func goodbye(t *testing.T, addr string, begin string, next func(i uint32) string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(6 * patience))
	go func() {
		_, err := io.WriteString(c, preface+begin)
		for i := uint32(0); err == nil && i < 50_000; i++ {
			_, err = io.WriteString(c, next(i))
		}
	}()
	for {
		var h [9]byte
		if _, err := io.ReadFull(c, h[:]); err != nil {
			return -1
		}
		p := make([]byte, int(h[0])<<16|int(h[1])<<8|int(h[2]))
		if _, err := io.ReadFull(c, p); err != nil {
			return -1
		}
		if h[3] == 7 && len(p) >= 8 {
			return int(binary.BigEndian.Uint32(p[4:]))
		}
	}
}

// TestFloods: a client that makes work and asks for nothing is sent away with
// ENHANCE_YOUR_CALM, and others are served.
func TestFloods(t *testing.T) {
	k := newBackend(t, strict{})
	p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(k.addr), nil))
	open := frame(1, 4, 1, post) // a POST that goes on
	for _, f := range []struct {
		name, begin string
		next        func(i uint32) string
	}{
		{"ping", "", func(uint32) string { return frame(6, 0, 0, "12345678") }},
		{"settings", "", func(uint32) string { return frame(4, 0, 0, "") }},
		{"priority", "", func(uint32) string { return frame(2, 0, 3, "\x00\x00\x00\x00\x01") }},
		{"empty DATA", open, func(uint32) string { return frame(0, 0, 1, "") }},
		{"padded DATA without content", open, func(uint32) string { return frame(0, 8, 1, "\x01\x00") }},
		{"window updates", open, func(uint32) string { return frame(8, 0, 0, "\x00\x00\x00\x01") }},
		{"unknown frames", "", func(uint32) string { return frame(99, 0, 0, "x") }},
		{"CONTINUATION", frame(1, 0, 1, get), func(uint32) string { return frame(9, 0, 1, "\x00\x01x\x7f\x81\x07"+string(make([]byte, 8<<10))) }},
		{"empty CONTINUATION", frame(1, 0, 1, get), func(uint32) string { return frame(9, 0, 1, "") }},
		{"rapid reset (CVE-2023-44487)", "", func(i uint32) string { return frame(1, 5, 2*i+1, get) + frame(3, 0, 2*i+1, "\x00\x00\x00\x08") }},
		{"resets that we are made to send (CVE-2025-8671)", "", func(i uint32) string {
			return frame(1, 4, 2*i+1, post) + frame(8, 0, 2*i+1, "\x00\x00\x00\x00")
		}},
		{"malformed requests", "", func(i uint32) string { return frame(1, 5, 2*i+1, "\x82") }},
	} {
		if code := goodbye(t, p.Addr, f.begin, f.next); code != 11 {
			t.Errorf("%s: GOAWAY with %d, want 11", f.name, code)
		}
		if heard := verdict(t, p.Addr, []byte("GET /probe HTTP/1.1\r\nhost: a\r\n\r\n")); len(heard) != 1 || heard[0] != "GET a /probe" {
			t.Errorf("after %s another client hears %q", f.name, heard)
		}
	}
}

// TestOutboundFloods: who asks on and does not read is sent away when so many
// answers wait for him; as long as he reads he may ask as often.
func TestOutboundFloods(t *testing.T) {
	for name, floods := range map[string]conf.Floods{
		"max_outbound_control_frames": {OutControl: 20},
		"max_outbound_frames":         {OutFrames: 20},
	} {
		p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(endless(t)),
			func(p *proxytest.Parts) { p.HTTP.Floods = floods }))
		c := connect(t, p.Addr)
		f := frames{t, c}
		ping := frame(framePing, 0, 0, "12345678")
		_, _ = io.WriteString(c, preface)
		for range 60 {
			_, _ = io.WriteString(c, ping)
			f.until(framePing)
		}
		// Windows that never close, so that only the socket can fill.
		_, _ = io.WriteString(c, frame(4, 0, 0, "\x00\x04\x7f\xff\xff\xff")+frame(8, 0, 0, "\x7f\xf0\x00\x00")+frame(1, 5, 1, get))
		for n := 0; p.Requests(`response_flags="D`) == 0; n++ {
			if n == 900 { // beyond that PING alone is a flood
				t.Fatalf("%s: after %d PINGs still there\n%s", name, n, p.Totals())
			}
			_, _ = io.WriteString(c, ping)
			time.Sleep(2 * time.Millisecond)
		}
		if code := binary.BigEndian.Uint32([]byte(f.until(frameGoAway)[4:])); code != 11 {
			t.Errorf("%s: GOAWAY with %d, want 11", name, code)
		}
	}
}

// endless is a backend whose answer never ends.
func endless(t *testing.T) string {
	return listen(t, func(c net.Conn) {
		_, err := http.ReadRequest(bufio.NewReader(c))
		if err == nil {
			_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n")
		}
		for b := make([]byte, 64<<10); err == nil; {
			_, err = c.Write(b)
		}
	})
}
