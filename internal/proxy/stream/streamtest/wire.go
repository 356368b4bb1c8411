// Package streamtest has what tests of codecs need: a recording Wire, a
// recording Peer and Acceptor, and a Loop that drives codecs over real
// connections.
//
// In: a codec under test. Out: the bytes and calls it made.
//
// What does not belong here: anything that a program of ours links.
package streamtest

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Wire records what a codec does to its connection. Not safe for concurrent use.
type Wire struct {
	Sent    []byte // all output
	Block   bool   // what Blocked answers
	Paused  bool
	Closed  bool
	Aborted bool
	Half    bool // CloseWrite was called
	Time    int64
	Writes  int // calls of Write
	lent    bool
}

// Out implements stream.Wire.
func (w *Wire) Out() []byte {
	if w.lent {
		panic("BUG: Out while lent")
	}
	w.lent = true
	return w.Sent
}

// SetOut implements stream.Wire.
func (w *Wire) SetOut(b []byte) { w.check(true); w.lent, w.Sent = false, b }

// Write implements stream.Wire.
func (w *Wire) Write(p []byte) { w.check(false); w.Writes++; w.Sent = append(w.Sent, p...) }

// Blocked implements stream.Wire.
func (w *Wire) Blocked() bool { w.check(false); return w.Block }

// PauseRead implements stream.Wire.
func (w *Wire) PauseRead(stop bool) { w.check(false); w.Paused = stop }

// Close implements stream.Wire.
func (w *Wire) Close() { w.check(false); w.Closed = true }

// Abort implements stream.Wire.
func (w *Wire) Abort() { w.check(false); w.Aborted = true }

// CloseWrite implements stream.Wire.
func (w *Wire) CloseWrite() { w.check(false); w.Half = true }

// Now implements stream.Wire.
func (w *Wire) Now() int64 { return w.Time }

func (w *Wire) check(lent bool) {
	if w.lent != lent {
		panic("BUG: Wire called while Out is lent, or SetOut without Out")
	}
}

// Take returns the output so far and forgets it.
func (w *Wire) Take() string {
	s := string(w.Sent)
	w.Sent = w.Sent[:0]
	return s
}

// Gone reports whether the codec has closed or aborted.
func (w *Wire) Gone() bool { return w.Closed || w.Aborted }

// Peer records one incoming message.
type Peer struct {
	Heads    []*stream.Head // copies, interim ones too
	Body     []byte
	Trailers *stream.Head
	End      bool
	Lost     stream.Reset
	Detail   string
	Writable int
	Stream   stream.Stream

	// Hooks, each may be nil, run after the recording.
	OnHeadFn     func(h *stream.Head, end bool)
	OnDataFn     func(p []byte, end bool)
	OnTrailersFn func(t *stream.Head)
	OnResetFn    func(r stream.Reset, detail string)
	OnWritableFn func()
}

func (p *Peer) over(what string) {
	if p.End || p.Lost != stream.NoReset {
		panic("BUG: " + what + " after the end")
	}
}

// OnHead implements stream.Peer.
func (p *Peer) OnHead(h *stream.Head, end bool) {
	p.over("OnHead")
	c := new(stream.Head)
	c.CopyFrom(h)
	p.Heads = append(p.Heads, c)
	p.End = end
	if p.OnHeadFn != nil {
		p.OnHeadFn(h, end)
	}
}

// OnData implements stream.Peer.
func (p *Peer) OnData(b []byte, end bool) {
	p.over("OnData")
	p.Body = append(p.Body, b...)
	p.End = end
	if p.OnDataFn != nil {
		p.OnDataFn(b, end)
	}
}

// OnTrailers implements stream.Peer.
func (p *Peer) OnTrailers(t *stream.Head) {
	p.over("OnTrailers")
	p.Trailers = new(stream.Head)
	p.Trailers.CopyFrom(t)
	p.End = true
	if p.OnTrailersFn != nil {
		p.OnTrailersFn(t)
	}
}

// OnReset implements stream.Peer.
func (p *Peer) OnReset(r stream.Reset, detail string) {
	if p.Lost != stream.NoReset {
		panic("BUG: OnReset twice")
	}
	p.Lost, p.Detail = r, detail
	if p.OnResetFn != nil {
		p.OnResetFn(r, detail)
	}
}

// OnWritable implements stream.Peer.
func (p *Peer) OnWritable() {
	p.Writable++
	if p.OnWritableFn != nil {
		p.OnWritableFn()
	}
}

// Head returns the last head, an empty one when there is none.
func (p *Peer) Head() *stream.Head {
	if len(p.Heads) == 0 {
		return new(stream.Head)
	}
	return p.Heads[len(p.Heads)-1]
}

// String is the message on one line, for comparing.
func (p *Peer) String() string {
	var b strings.Builder
	for i, h := range p.Heads {
		if i > 0 {
			b.WriteString(" + ")
		}
		b.WriteString(HeadString(h))
	}
	if len(p.Body) > 0 {
		fmt.Fprintf(&b, " body=%q", p.Body)
	}
	if p.Trailers != nil {
		b.WriteString(" trailers{" + HeadString(p.Trailers) + "}")
	}
	if p.End {
		b.WriteString(" end")
	}
	if p.Lost != stream.NoReset {
		fmt.Fprintf(&b, " reset(%d %s)", p.Lost, p.Detail)
	}
	return strings.TrimSpace(b.String())
}

// HeadString is a head on one line.
func HeadString(h *stream.Head) string {
	var b strings.Builder
	if h.Status != 0 {
		fmt.Fprintf(&b, "%d", h.Status)
	} else if len(h.Method) > 0 {
		fmt.Fprintf(&b, "%s %s %s", h.Method, h.Authority, h.Path)
	}
	if len(h.Protocol) > 0 {
		fmt.Fprintf(&b, " protocol=%s", h.Protocol)
	}
	for _, f := range h.Fields {
		fmt.Fprintf(&b, " [%s: %s]", f.Name, f.Value)
	}
	if h.Length >= 0 {
		fmt.Fprintf(&b, " length=%d", h.Length)
	}
	return strings.TrimSpace(b.String())
}

// Acceptor records every request; Handle, if not nil, sees each as it comes.
type Acceptor struct {
	Requests []*Peer
	Handle   func(p *Peer, h *stream.Head, end bool)
}

// Accept implements stream.Acceptor.
func (a *Acceptor) Accept(s stream.Stream, h *stream.Head, end bool) stream.Peer {
	p := &Peer{Stream: s}
	a.Requests = append(a.Requests, p)
	p.OnHead(h, end)
	if a.Handle != nil {
		a.Handle(p, h, end)
	}
	return p
}

// Last returns the newest request, an empty one when there is none.
func (a *Acceptor) Last() *Peer {
	if len(a.Requests) == 0 {
		return new(Peer)
	}
	return a.Requests[len(a.Requests)-1]
}
