package http1

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

// FuzzServerLife drives a server through whole lives: any bytes, cut anywhere,
// answered in any way and at any time. streamtest.Peer panics when it is
// called after its end.
func FuzzServerLife(f *testing.F) {
	for i, c := range goodRequests {
		f.Add([]byte(c.in+c.in), []byte{byte(i), 3, 17, 250, 9})
	}
	f.Fuzz(func(t *testing.T, in, how []byte) {
		r := newRig()
		pick := func(n int) int {
			if len(how) == 0 {
				return 0
			}
			v := int(how[0]) % n
			how = how[1:]
			return v
		}
		var due []func()
		if pick(2) == 1 {
			r.o.Later = func(s *Server) { due = append(due, s.Continue) }
		}
		r.o.HalfClose = pick(2) == 1
		answer := func(s stream.Stream) {
			switch pick(6) {
			case 0:
				s.SendHead(&stream.Head{Status: 200, Length: 2}, false)
				s.SendData([]byte("ok"), true)
			case 1:
				s.SendHead(&stream.Head{Status: 101, Length: -1}, false)
				s.SendData([]byte("raw"), pick(2) == 1)
			case 2:
				s.SendHead(&stream.Head{Status: 200, Length: -1}, false)
				s.SendData([]byte("chunk"), false)
				s.SendTrailers(new(stream.Head))
			case 3:
				s.Reset(stream.LocalReset)
			case 4:
				s.SendHead(&stream.Head{Status: 100, Length: -1}, false)
				s.SendHead(&stream.Head{Status: 204, Length: -1}, true)
			case 5:
				s.Pause(true)
				s.SendHead(&stream.Head{Status: 200, Length: 5}, false)
				s.SendData([]byte("12"), true) // broken promise
			}
		}
		r.a.Handle = func(p *streamtest.Peer, _ *stream.Head, end bool) {
			switch pick(3) {
			case 0:
				answer(p.Stream)
			case 1:
				due = append(due, func() { answer(p.Stream) })
			case 2:
				p.OnDataFn = func(_ []byte, end bool) { answer(p.Stream) }
			}
		}
		work := func() {
			for len(due) > 0 {
				fn := due[0]
				due = due[1:]
				fn()
			}
		}
		for len(in) > 0 {
			n := min(1+pick(64), len(in))
			r.s.OnBytes(in[:n])
			in = in[n:]
			if pick(2) == 0 {
				work()
			}
		}
		if pick(2) == 0 {
			r.s.OnEOF()
		}
		work()
		n := len(r.w.Sent)
		gone := r.w.Gone()
		r.s.OnClose(nil)
		for _, p := range r.a.Requests {
			p.Stream.SendHead(&stream.Head{Status: 200}, false)
			p.Stream.SendData([]byte("late"), true)
			p.Stream.Reset(stream.Cancelled)
		}
		if gone && len(r.w.Sent) != n {
			t.Errorf("output after the end: %q", r.w.Sent[n:])
		}
	})
}
