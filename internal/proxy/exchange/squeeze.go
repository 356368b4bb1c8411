package exchange

import (
	"context"
	"slices"

	"github.com/tulle-mesh/tulle/internal/proxy/filter/compress"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// inlineMost is how much of an answer is compressed on the loop, in bytes: less
// than a tenth of a millisecond's work. The rest is done behind the gate.
const inlineMost = 16 << 10

// squeeze compresses the body of an answer on its way down.
type squeeze struct {
	x        *Exchange // nil: it has ended
	enc      *compress.Encoder
	done     int    // compressed on the loop
	in       []byte // waits while the gate has what came before
	busy     bool   // the gate has a piece; the encoder is not ours
	end      bool
	trailers *stream.Head
}

// compress edits the head of an answer and sets up the compression of its body
// when there is to be one.
func (x *Exchange) compress(h *stream.Head, end bool) {
	cs := x.conn.http.Compressors
	if len(cs) == 0 || !x.toCompress || x.tunnel {
		return
	}
	if c := compress.Apply(cs, x.accept, h, end || !x.env.squeezes.Free()); c != nil {
		x.squeeze = &squeeze{x: x, enc: x.env.squeezes.Get(c)}
	}
}

// data takes a piece of the body. It may finish the exchange.
func (q *squeeze) data(p []byte, end bool) {
	q.end = end
	if !q.busy && q.done+len(p) <= inlineMost {
		q.done += len(p)
		q.send(q.enc.Encode(p, end))
		return
	}
	q.in = append(q.in, p...)
	if s := q.x.a.s; s != nil {
		s.Pause(true)
	}
	if !q.busy {
		q.start()
	}
}

// start gives what has come to the gate. The exchange may be gone when it is
// done.
func (q *squeeze) start() {
	e, in, end := q.x.env, q.in, q.end
	q.busy, q.in = true, nil
	go func() {
		var out []byte
		_ = e.Gate.Insist(context.Background(), func() { out = slices.Clone(q.enc.Encode(in, end)) })
		e.Loop.Post(func() { q.did(e, out, end) })
	}()
}

// did goes on with what the gate made.
func (q *squeeze) did(e *Env, out []byte, all bool) {
	q.busy = false
	if q.x == nil {
		e.squeezes.Put(q.enc)
		return
	}
	x := q.x
	e.Loop.Blame(x.conn.wire)
	x.touch()
	if more := !all && (q.end || len(q.in) > 0); more {
		x.send(out)
		q.start()
		return
	}
	q.send(out)
	if !all && x.a.s != nil && !x.down.Blocked() {
		x.a.s.Pause(false)
	}
}

// send hands a compressed piece down, and the end when it has come.
func (q *squeeze) send(out []byte) {
	x := q.x
	switch {
	case !q.end:
		x.send(out)
		if s := x.a.s; s != nil && x.down.Blocked() {
			s.Pause(true)
		}
	case q.trailers != nil:
		x.send(out)
		x.down.SendTrailers(q.trailers)
		x.responded()
	default:
		x.rec.BytesSent += uint64(len(out))
		x.down.SendData(out, true)
		x.responded()
	}
}

func (x *Exchange) send(out []byte) {
	if len(out) > 0 {
		x.rec.BytesSent += uint64(len(out))
		x.down.SendData(out, false)
	}
}

// drop ends it with the exchange; the gate may still hold the encoder.
func (q *squeeze) drop(e *Env) {
	if q == nil {
		return
	}
	if q.x = nil; !q.busy {
		e.squeezes.Put(q.enc)
	}
}
