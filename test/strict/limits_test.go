package strict

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// literal is a field in HPACK that goes into no table (RFC 7541 6.2.3).
func literal(name, value string) string {
	number := func(n int) string {
		if n < 127 {
			return string([]byte{byte(n)})
		}
		b := []byte{127}
		for n -= 127; n >= 128; n >>= 7 {
			b = append(b, byte(n)|128)
		}
		return string(append(b, byte(n)))
	}
	return "\x10" + number(len(name)) + name + number(len(value)) + value
}

// request is a whole GET over HTTP/2, in as many frames as it takes.
func request(id uint32, fields string) string {
	block, kind, flags := fields, byte(frameHeaders), byte(1)
	s := ""
	for len(block) > 16384 {
		s += frame(kind, flags, id, block[:16384])
		block, kind, flags = block[16384:], 9, 0
	}
	return s + frame(kind, flags|4, id, block)
}

// TestHeadLimits: how long a target, how large a head and how many fields may
// be, by Envoy's defaults and as configured, over HTTP/1 and HTTP/2.
func TestHeadLimits(t *testing.T) {
	own := func(p *proxytest.Parts) { p.HTTP.MaxHeadBytes, p.HTTP.MaxHeaders = 8<<10, 20 }
	for _, c := range []struct {
		name                string
		set                 func(*proxytest.Parts)
		path, value, fields int // bytes of the target and of a value, number of fields
		http1, http2        string
	}{
		{"target below the default", nil, 58 << 10, 1, 1, "200", "200"},
		{"target above the default", nil, 61 << 10, 1, 1, "414", "431"},
		{"head below the default", nil, 1, 58 << 10, 1, "200", "200"},
		{"head above the default", nil, 1, 61 << 10, 1, "431", "431"},
		{"fields below the default", nil, 1, 1, 90, "200", "200"},
		{"fields above the default", nil, 1, 1, 130, "431", "431"},
		{"target below 8 KiB", own, 7 << 10, 1, 1, "200", "200"},
		{"target above 8 KiB", own, 9 << 10, 1, 1, "414", "431"},
		{"head above 8 KiB", own, 1, 9 << 10, 1, "431", "431"},
		{"15 fields of 20", own, 1, 1, 15, "200", "200"},
		{"21 fields of 20", own, 1, 1, 21, "431", "431"},
	} {
		app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		app.Config.MaxHeaderBytes = 1 << 20
		p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(app.Listener.Addr().String()), c.set))
		path, value := "/"+strings.Repeat("p", c.path-1), strings.Repeat("v", c.value)
		one := connect(t, p.Addr)
		go func() {
			_, _ = fmt.Fprintf(one, "GET %s HTTP/1.1\r\nhost: a\r\n%s\r\n", path, strings.Repeat("x: "+value+"\r\n", c.fields))
		}()
		if r, err := http.ReadResponse(bufio.NewReader(one), nil); err != nil || fmt.Sprint(r.StatusCode) != c.http1 {
			t.Errorf("%s over HTTP/1: %v %v, want %s", c.name, r, err, c.http1)
		}
		two := connect(t, p.Addr)
		_, _ = io.WriteString(two, preface+request(1, "\x82\x86"+literal(":path", path)+"\x41\x01a"+strings.Repeat(literal("x", value), c.fields)))
		f := frames{t, two}
		if got := f.until(frameHeaders); !strings.HasPrefix(got, map[string]string{"200": "\x88"}[c.http2]) || c.http2 != "200" && !strings.Contains(got, c.http2) {
			t.Errorf("%s over HTTP/2: %q, want %s", c.name, got, c.http2)
		}
		app.Close()
	}
}

// TestHPACKBomb: a field that is said once and meant ten thousand times is
// not held ten thousand times, and the connection goes on.
func TestHPACKBomb(t *testing.T) {
	p := listening(t, nil)
	c := connect(t, p.Addr)
	f := frames{t, c}
	const get = "\x82\x86\x84\x01\x01a" // that leaves the table alone
	_, _ = io.WriteString(c, preface+request(1, get+"\x40\x01x\x7f\x81\x1e"+strings.Repeat("v", 4000-32)))
	if got := f.until(frameHeaders); got[0] != 0x88 {
		t.Fatalf("answered %q", got)
	}
	before := heap()
	for id := uint32(3); id < 43; id += 2 { // 40 MiB each, if it were held
		_, _ = io.WriteString(c, request(id, get+strings.Repeat("\xbe", 10_000)))
		// In full, or when it has been said before by the table.
		if got := f.until(frameHeaders); !strings.Contains(got, "431") && got[0] < 0xbe {
			t.Fatalf("stream %d: answered %q", id, got)
		}
	}
	if after := heap(); after > before+4<<20 {
		t.Errorf("%d KiB are held for it", (after-before)>>10)
	}
	_, _ = io.WriteString(c, request(43, get+"\xbe"))
	if got := f.until(frameHeaders); got[0] != 0x88 {
		t.Errorf("afterwards answered %q", got)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestStreamLimit: a stream more than max_concurrent_streams is refused in a
// way that lets the client send it again, and those before it go on.
func TestStreamLimit(t *testing.T) {
	p := listening(t, func(p *proxytest.Parts) { p.HTTP.MaxStreams = 3 })
	c := connect(t, p.Addr)
	f := frames{t, c}
	_, _ = io.WriteString(c, preface+frame(1, 4, 1, post)+frame(1, 4, 3, post)+frame(1, 4, 5, post)+frame(1, 5, 7, get))
	for {
		kind, _, id, payload := f.next()
		if kind == 4 && strings.Contains(payload, "\x00\x03\x00\x00\x00\x03") || kind == 4 && payload == "" || kind == 8 {
			continue // SETTINGS that say so; WINDOW_UPDATE
		}
		if kind != frameReset || id != 7 || payload != "\x00\x00\x00\x07" {
			t.Fatalf("frame %d on %d: %q", kind, id, payload)
		}
		break
	}
	_, _ = io.WriteString(c, frame(0, 1, 1, "x"))
	if got := f.until(frameHeaders); got[0] != 0x88 {
		t.Errorf("the first is answered %q", got)
	}
	_, _ = io.WriteString(c, frame(1, 5, 9, get))
	if got := f.until(frameHeaders); got[0] != 0x88 {
		t.Errorf("one in its place is answered %q", got)
	}
}

// TestConfiguredFloods: each configured limit lets just so many frames pass.
func TestConfiguredFloods(t *testing.T) {
	const ping, priority = "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678", "\x00\x00\x00\x00\x01"
	for _, c := range []struct {
		name, begin, frame string
		n                  int // frames that pass
		floods             conf.Floods
	}{
		{"PRIORITY, no stream", "", frame(2, 0, 9, priority), 7, conf.Floods{Priority: 7}},
		{"PRIORITY, a stream", frame(1, 4, 1, post), frame(2, 0, 9, priority), 14, conf.Floods{Priority: 7}},
		{"empty DATA", frame(1, 4, 1, post), frame(0, 0, 1, ""), 3, conf.Floods{Empty: 3}},
		{"WINDOW_UPDATE", frame(1, 4, 1, post), frame(8, 0, 0, "\x00\x00\x00\x01"), 7, conf.Floods{WindowUpdates: 2}},
	} {
		p := listening(t, func(p *proxytest.Parts) { p.HTTP.Floods = c.floods })
		conn := connect(t, p.Addr)
		f := frames{t, conn}
		_, _ = io.WriteString(conn, preface+c.begin+strings.Repeat(c.frame, c.n)+ping)
		for kind := 0; kind != framePing; {
			var payload string
			if kind, _, _, payload = f.next(); kind == frameGoAway || kind == -1 {
				t.Fatalf("%s: sent away before %d frames: %q", c.name, c.n, payload)
			}
		}
		_, _ = io.WriteString(conn, c.frame)
		if code := binary.BigEndian.Uint32([]byte(f.until(frameGoAway)[4:])); code != 11 {
			t.Errorf("%s: GOAWAY with %d, want 11", c.name, code)
		}
	}
}

// TestMaxRequests: a connection ends in good order after so many requests.
func TestMaxRequests(t *testing.T) {
	p := listening(t, func(p *proxytest.Parts) { p.HTTP.MaxRequests = 3 })
	one := connect(t, p.Addr)
	in := bufio.NewReader(one)
	for n := 1; n <= 3; n++ {
		fmt.Fprint(one, "GET / HTTP/1.1\r\nhost: a\r\n\r\n")
		if r, err := http.ReadResponse(in, nil); err != nil || r.StatusCode != 200 || r.Close != (n == 3) {
			t.Fatalf("request %d: %v %v", n, r, err)
		}
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("after them: %v", err)
	}
	two := connect(t, p.Addr)
	f := frames{t, two}
	_, _ = io.WriteString(two, preface+request(1, get)+request(3, get)+request(5, get))
	answers, last := 0, uint32(0)
	for {
		kind, flags, _, payload := f.next()
		switch {
		case kind == frameHeaders && payload[0] == 0x88:
			answers++
		case kind == framePing && flags == 0:
			_, _ = io.WriteString(two, frame(6, 1, 0, payload))
		case kind == frameGoAway:
			last = binary.BigEndian.Uint32([]byte(payload))
		}
		if kind == -1 {
			break
		}
	}
	if answers != 3 || last != 5 {
		t.Errorf("%d answers over HTTP/2, the last of stream %d", answers, last)
	}
}

// TestBodyBuffers: a body is held for a further attempt up to the limit for
// buffers; a larger one is forwarded all the same, once.
func TestBodyBuffers(t *testing.T) {
	var tries atomic.Int32
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tries.Add(1)
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("x-size", fmt.Sprint(n))
		w.WriteHeader(503)
	}))
	t.Cleanup(app.Close)
	p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(app.Listener.Addr().String()), func(p *proxytest.Parts) {
		p.Listener.BufferLimit = 16 << 10
		p.Route.Forward.Retry = &conf.Retry{On: conf.On5xx, Attempts: 2, BackoffBase: time.Millisecond}
	}))
	for size, want := range map[int]int32{8 << 10: 3, 16 << 10: 3, 64 << 10: 1, 4 << 20: 1} {
		tries.Store(0)
		r, err := http.Post("http://"+p.Addr, "x/y", strings.NewReader(strings.Repeat("b", size)))
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if tries.Load() != want || r.StatusCode != 503 || r.Header.Get("x-size") != fmt.Sprint(size) {
			t.Errorf("%d bytes: %d attempts, want %d; %v", size, tries.Load(), want, r)
		}
	}
}

// TestBodiesThatWait: of a body that cannot be sent on yet only a little is
// read, over HTTP/1 and HTTP/2.
func TestBodiesThatWait(t *testing.T) {
	p := listening(t, func(p *proxytest.Parts) {
		p.HTTP.Filters = []conf.Filter{{Name: "fault", HasFault: true, Fault: &conf.Fault{Delay: time.Hour, DelayFraction: 1_000_000}}}
	})
	const clients = 8
	before := heap()
	for i := range clients {
		c := connect(t, p.Addr)
		if i%2 == 0 {
			fmt.Fprint(c, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n")
		} else {
			_, _ = io.WriteString(c, preface+frame(1, 4, 1, post))
		}
		b := frame(0, 0, 1, strings.Repeat("b", 16384))
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)) // by then the sockets are full
		for sent := 0; sent < 64<<20; sent += len(b) {
			if _, err := io.WriteString(c, b); err != nil {
				break
			}
		}
	}
	if after := heap(); after > before+clients<<20 {
		t.Errorf("%d KiB are held for %d clients", (after-before)>>10, clients)
	}
}

// TestAsterisk: a request for the whole server is for nobody in the mesh, as
// Envoy sees it.
func TestAsterisk(t *testing.T) {
	p := listening(t, nil)
	one := connect(t, p.Addr)
	fmt.Fprint(one, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
	in := bufio.NewReader(one)
	for _, want := range []int{404, 200} {
		if r, err := http.ReadResponse(in, nil); err != nil || r.StatusCode != want {
			t.Fatalf("%v %v, want %d", r, err, want)
		}
	}
	two := connect(t, p.Addr)
	_, _ = io.WriteString(two, preface+request(1, literal(":method", "OPTIONS")+"\x86"+literal(":path", "*")+"\x41\x01a"))
	f := frames{t, two}
	if got := f.until(frameHeaders); !strings.HasPrefix(got, "\x8d") {
		t.Errorf("over HTTP/2: %q, want 404", got)
	}
	if n := p.Requests(`response_code="404",[^}]*response_flags="-"`); n != 2 {
		t.Errorf("%d recorded\n%s", n, p.Totals())
	}
}
