package http2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

// pair is a client and a server over two fake wires.
type pair struct {
	c      *Client
	s      *Server
	cw, sw *streamtest.Wire
}

func newPair(a stream.Acceptor, lim Limits) *pair {
	p := &pair{cw: new(streamtest.Wire), sw: new(streamtest.Wire)}
	set := new(Set)
	p.s = NewServer(p.sw, a, &ServerOptions{Set: set, Limits: lim})
	p.c = NewClient(p.cw, &ClientOptions{Set: set, Limits: lim})
	return p
}

// move carries up to n bytes each way.
func (p *pair) move(n int) (moved bool) {
	carry := func(w *streamtest.Wire, to stream.Codec) {
		b := bytes.Clone(w.Sent[:min(n, len(w.Sent))])
		w.Sent = append(w.Sent[:0], w.Sent[len(b):]...)
		if len(b) > 0 {
			moved = true
			to.OnBytes(b)
		}
	}
	carry(p.cw, p.s)
	carry(p.sw, p.c)
	return moved
}

// sender pushes a known body into a stream as it may.
type sender struct {
	s    stream.Stream
	body []byte
	sent int
	done bool
}

func (x *sender) push(r *rand.Rand) {
	for !x.done && !x.s.Blocked() {
		n := min(r.IntN(40000), len(x.body)-x.sent)
		x.sent += n
		x.done = x.sent == len(x.body)
		x.s.SendData(x.body[x.sent-n:x.sent], x.done)
	}
}

func pattern(id, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + id)
	}
	return b
}

// Many streams with bodies both ways, small windows, wires that block and
// open at random, pauses and resets at random: every stream that is not reset
// gets exactly its bytes, and nothing stays behind.
func TestStress(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 99))
		var servers, clients []*sender
		var all []*streamtest.Peer
		a := new(streamtest.Acceptor)
		a.Handle = func(p *streamtest.Peer, h *stream.Head, end bool) {
			n := 0
			fmt.Sscan(string(h.Get("x-size")), &n)
			x := &sender{s: p.Stream, body: pattern(n, n)}
			start := func() {
				p.Stream.SendHead(resp(200, int64(n)), n == 0)
				if n > 0 {
					servers = append(servers, x)
				}
			}
			if end {
				start()
			}
			p.OnDataFn = func(_ []byte, end bool) {
				if end {
					start()
				}
			}
			all = append(all, p)
		}
		p := newPair(a, Limits{StreamWindow: 16384 + r.IntN(60000), ConnWindow: 65535 + r.IntN(60000), MaxHeld: 30000})
		sizes := map[*streamtest.Peer][2]int{}
		reset := map[*streamtest.Peer]bool{}
		opened := 0
		step := func(last bool) {
			p.cw.Block, p.sw.Block = !last && r.IntN(4) == 0, !last && r.IntN(4) == 0
			if !p.cw.Block {
				p.c.OnWritable()
			}
			if !p.sw.Block {
				p.s.OnWritable()
			}
			if opened < 60 && p.c.Capacity() > 0 && !last {
				opened++
				q := new(streamtest.Peer)
				up, down := r.IntN(200_000), r.IntN(200_000)
				if r.IntN(4) == 0 {
					up = 0
				}
				sizes[q] = [2]int{up, down}
				q.Stream = p.c.Open(q)
				h := request("POST", "x-size", fmt.Sprint(down))
				q.Stream.SendHead(h, up == 0)
				if up > 0 {
					clients = append(clients, &sender{s: q.Stream, body: pattern(down, up)})
				}
				all = append(all, q)
			}
			for _, x := range clients {
				x.push(r)
			}
			for _, x := range servers {
				x.push(r)
			}
			if len(all) > 0 && !last {
				q := all[r.IntN(len(all))]
				if !q.End && q.Lost == stream.NoReset && !reset[q] {
					q.Stream.Pause(r.IntN(2) == 0)
					if sizes[q] != [2]int{} && r.IntN(60) == 0 {
						reset[q] = true
						q.Stream.Reset(stream.Cancelled)
					}
				}
			}
			p.move(1 + r.IntN(60000))
		}
		for range 1500 {
			step(false)
		}
		for _, q := range all {
			if !q.End && q.Lost == stream.NoReset && !reset[q] {
				q.Stream.Pause(false)
			}
		}
		for i := 0; i < 20000; i++ {
			step(true)
			if !p.cw.Gone() && len(p.cw.Sent)+len(p.sw.Sent) == 0 && p.c.Active() == 0 {
				break
			}
		}
		done := 0
		for q, n := range sizes {
			if reset[q] {
				continue
			}
			if !q.End || q.Head().Status != 200 || !bytes.Equal(q.Body, pattern(n[1], n[1])) {
				t.Errorf("seed %d: response %d of %d bytes: end %v lost %v %s", seed, len(q.Body), n[1], q.End, q.Lost, q.Detail)
				continue
			}
			done++
		}
		if p.c.Active() != 0 || p.s.Active() != 0 || p.c.held != 0 || p.s.held != 0 || p.c.ready != nil || p.s.ready != nil || p.cw.Gone() || p.sw.Gone() {
			t.Errorf("seed %d: left: %d and %d streams, held %d and %d", seed, p.c.Active(), p.s.Active(), p.c.held, p.s.held)
		}
		if done < 20 {
			t.Errorf("seed %d: only %d streams were whole", seed, done)
		}
	}
}

// Whatever bytes come, the codec neither panics nor calls a peer after its end
// (streamtest.Peer panics then), nor writes after it has closed.
func FuzzServer(f *testing.F) {
	r := newServerRig(f)
	r.w.Take()
	for _, write := range []func(){
		func() {
			r.fr.WriteHeaders(headersParam(1, true, r.block(":method", "GET", ":scheme", "http", ":path", "/")))
		},
		func() {
			r.fr.WriteHeaders(headersParam(1, false, r.block(":method", "POST", ":scheme", "http", ":path", "/", "content-length", "3")))
			r.fr.WriteData(1, true, []byte("abc"))
		},
		func() {
			r.fr.WriteHeaders(headersParam(1, false, r.block(":method", "CONNECT", ":authority", "a:1")))
			r.fr.WriteRSTStream(1, 8)
			r.fr.WriteWindowUpdate(1, 5)
			r.fr.WritePing(false, [8]byte{1})
			r.fr.WriteSettings()
		},
	} {
		write()
		f.Add(bytes.Clone(r.out.Bytes()), uint8(0))
		r.out.Reset()
	}
	f.Fuzz(func(t *testing.T, in []byte, how uint8) {
		w := new(streamtest.Wire)
		a := new(streamtest.Acceptor)
		a.Handle = func(p *streamtest.Peer, h *stream.Head, end bool) {
			switch how % 4 {
			case 0:
				p.Stream.SendHead(resp(200, -1), false)
				p.Stream.SendData(make([]byte, 20000), true)
			case 1:
				p.Stream.SendHead(resp(200, 0), true)
			case 2:
				p.Stream.Reset(stream.LocalReset)
			case 3:
				p.Stream.Pause(true)
				p.OnDataFn = func(b []byte, end bool) {
					p.Stream.Pause(false)
					p.Stream.SendHead(resp(101, -1), false)
					p.Stream.SendData(b, end)
				}
			}
		}
		s := NewServer(w, a, &ServerOptions{Set: new(Set)})
		s.OnBytes([]byte(Preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
		cut := len(in) * int(how) / 256
		s.OnBytes(in[:cut])
		s.OnBytes(in[cut:])
		n := len(w.Sent)
		if w.Gone() {
			s.OnBytes([]byte("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"))
			if len(w.Sent) != n {
				t.Error("output after close")
			}
		}
		s.OnClose(nil)
		if s.streams.n != 0 || s.held != 0 || s.ready != nil {
			t.Errorf("left: %d streams, %d held", s.streams.n, s.held)
		}
	})
}

func FuzzClient(f *testing.F) {
	r := newServerRig(f)
	f.Add([]byte{}, uint8(1))
	r.fr.WriteHeaders(headersParam(1, false, r.block(":status", "200", "content-length", "3")))
	r.fr.WriteData(1, true, []byte("abc"))
	r.fr.WriteHeaders(headersParam(3, true, r.block(":status", "304")))
	r.fr.WriteGoAway(3, 0, nil)
	f.Add(bytes.Clone(r.out.Bytes()), uint8(7))
	f.Fuzz(func(t *testing.T, in []byte, how uint8) {
		w := new(streamtest.Wire)
		c := NewClient(w, &ClientOptions{Set: new(Set)})
		c.OnBytes([]byte("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00\x01"))
		var peers []*streamtest.Peer
		for i := range 4 {
			p := new(streamtest.Peer)
			p.Stream = c.Open(p)
			h := request("POST")
			if i == 2 {
				h.Protocol = []byte("websocket")
			}
			p.Stream.SendHead(h, i == 1)
			p.Stream.SendData(make([]byte, 100), i == 0)
			if how&1 == 0 {
				p.OnHeadFn = func(*stream.Head, bool) { p.Stream.SendTrailers(new(stream.Head)) }
			}
			if how&2 == 0 && i == 3 {
				p.OnDataFn = func([]byte, bool) { p.Lost = stream.Cancelled; p.Stream.Reset(stream.Cancelled) }
			}
			peers = append(peers, p)
		}
		cut := len(in) * int(how) / 256
		c.OnBytes(in[:cut])
		c.OnBytes(in[cut:])
		c.OnClose(nil)
		for i, p := range peers {
			if !p.End && p.Lost == stream.NoReset {
				t.Errorf("peer %d was left waiting: %s", i, p)
			}
		}
		if c.Active() != 0 || c.held != 0 || c.ready != nil {
			t.Errorf("left: %d streams, %d held", c.Active(), c.held)
		}
	})
}
