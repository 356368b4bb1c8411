package compress

import (
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/molecule-man/go-brrr"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// An encoder holds about 1 MiB. So many may be at work on one loop, and so many
// rest there for later.
const (
	maxBusy = 32
	maxRest = 4
)

// Pool holds a loop's encoders. The zero value is empty; it belongs to the loop.
type Pool struct {
	busy int
	rest []*Encoder
}

// Free reports whether there is one to lend.
func (p *Pool) Free() bool { return p.busy < maxBusy }

// Lent is how many are.
func (p *Pool) Lent() int { return p.busy }

// Get lends an encoder; ask Free first.
func (p *Pool) Get(c *conf.Compressor) *Encoder {
	p.busy++
	for i, e := range p.rest {
		if e.encoding == c.Encoding && e.level == c.Level {
			p.rest = append(p.rest[:i], p.rest[i+1:]...)
			return e
		}
	}
	e := &Encoder{encoding: c.Encoding, level: c.Level}
	// conf gives only levels that there are.
	if c.Encoding == conf.Brotli {
		e.w, _ = brrr.NewWriterOptions(&e.out, c.Level, brrr.WriterOptions{LGWin: 18})
	} else {
		e.w, _ = gzip.NewWriterLevel(&e.out, c.Level)
	}
	return e
}

// Put takes an encoder back, at the end of its answer or before it.
func (p *Pool) Put(e *Encoder) {
	p.busy--
	e.out.Reset()
	e.w.Reset(&e.out)
	if len(p.rest) == maxRest {
		p.rest = append(p.rest[:0], p.rest[1:]...)
	}
	if e.out.Cap() <= 64<<10 {
		p.rest = append(p.rest, e)
	}
}

// Encoder compresses one answer. One goroutine at a time may use it.
type Encoder struct {
	encoding string
	level    int
	out      bytes.Buffer
	w        interface {
		io.WriteCloser
		Flush() error
		Reset(io.Writer)
	}
}

// Encode returns what the client can be given after a further piece: all of it,
// so that nothing waits here for more. The bytes are valid until the next call.
func (e *Encoder) Encode(p []byte, end bool) []byte {
	e.out.Reset()
	// A bytes.Buffer takes everything; there are no other errors.
	_, _ = e.w.Write(p)
	if end {
		_ = e.w.Close()
	} else if len(p) > 0 {
		_ = e.w.Flush()
	}
	return e.out.Bytes()
}
