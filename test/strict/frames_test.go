package strict

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// Types of frames (RFC 9113 6).
const (
	frameData    = 0
	frameHeaders = 1
	frameReset   = 3
	framePing    = 6
	frameGoAway  = 7
)

// frames reads what a proxy says over HTTP/2.
type frames struct {
	t    testing.TB
	conn net.Conn
}

// next reads a frame; kind -1: the connection has ended.
func (f *frames) next() (kind int, flags byte, id uint32, payload string) {
	f.t.Helper()
	var h [9]byte
	_, err := io.ReadFull(f.conn, h[:])
	p := make([]byte, int(h[0])<<16|int(h[1])<<8|int(h[2]))
	if err == nil {
		_, err = io.ReadFull(f.conn, p)
	}
	var e net.Error
	switch {
	case errors.As(err, &e) && e.Timeout():
		f.t.Fatal("the proxy is silent")
	case err != nil:
		return -1, 0, 0, ""
	}
	return int(h[3]), h[4], binary.BigEndian.Uint32(h[5:]), string(p)
}

// until reads up to a frame of a kind and returns its payload; kind -1: up to
// the end of the connection.
func (f *frames) until(kind int) string {
	f.t.Helper()
	for {
		k, _, _, p := f.next()
		switch k {
		case kind:
			return p
		case -1:
			f.t.Fatalf("the connection ended before a frame of type %d", kind)
		}
	}
}

// TestLateStream: a client that is told to go acknowledges it, and yet opens the
// stream that it had begun before, as one of several threads may. It is answered.
func TestLateStream(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(app.Close)
	p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(app.Listener.Addr().String()),
		func(p *proxytest.Parts) { p.HTTP.MaxConnDuration = time.Millisecond }))
	c := connect(t, p.Addr)
	f := &frames{t, c}
	if _, err := io.WriteString(c, preface); err != nil {
		t.Fatal(err)
	}
	if last := binary.BigEndian.Uint32([]byte(f.until(frameGoAway))); last != 1<<31-1 {
		t.Fatalf("the first GOAWAY names %d", last)
	}
	if _, err := io.WriteString(c, frame(framePing, 1, 0, f.until(framePing))+frame(frameHeaders, 5, 1, get)); err != nil {
		t.Fatal(err)
	}
	if status := f.until(frameHeaders); status[0] != 0x88 { // :status: 200 (RFC 7541 appendix A)
		t.Errorf("answered %x", status)
	}
	if last := binary.BigEndian.Uint32([]byte(f.until(frameGoAway))); last != 1 {
		t.Errorf("the last GOAWAY names %d", last)
	}
	f.until(-1)
}
