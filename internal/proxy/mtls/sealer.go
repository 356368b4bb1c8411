//go:build linux

package mtls

import (
	"crypto/tls"
	"errors"
	"io"

	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

const (
	maxRecord   = 16 << 10 // plain bytes of a record
	openScratch = 64 << 10
	// wornRecords is well below the 2^24.5 records that AES-GCM allows.
	wornRecords = 1 << 23
)

// errEmpty is what crypto/tls gets when there is nothing to read yet. Being
// temporary it is not kept, so the tls.Conn reads on when there is more.
var errEmpty error = emptyError{}

type emptyError struct{}

func (emptyError) Error() string   { return "nothing to read yet" }
func (emptyError) Timeout() bool   { return true }
func (emptyError) Temporary() bool { return true }

// sealer drives a tls.Conn from memory, after its handshake. It is the
// transport of that tls.Conn too, by way of shim.
type sealer struct {
	conn    *tls.Conn
	loop    *loop.Loop
	in      []byte // received, not yet taken by conn
	dst     []byte // where Seal collects
	sealing bool
	said    []byte // written by conn on its own: alerts, key updates
	records uint64
}

var _ loop.Sealer = (*sealer)(nil)

// Open implements loop.Sealer. What is partial rests in the tls.Conn.
func (s *sealer) Open(in []byte, out func([]byte)) (eof bool, err error) {
	s.in = in
	buf := s.loop.Buffer(openScratch)
	m := 0
	for err == nil {
		if cap(buf)-m < maxRecord {
			out(buf[:m])
			m = 0
		}
		var n int
		n, err = s.conn.Read(buf[m:cap(buf)])
		m += n
	}
	s.in = nil
	if m > 0 {
		out(buf[:m])
	}
	s.loop.Recycle(buf)
	switch {
	case errors.Is(err, errEmpty):
		return false, nil
	case errors.Is(err, io.EOF):
		return true, nil
	}
	return false, classify(err)
}

// Seal implements loop.Sealer.
func (s *sealer) Seal(dst, plain []byte) []byte {
	if len(s.said) > 0 {
		dst = append(dst, s.said...)
		s.said = nil
	}
	if len(plain) == 0 {
		return dst
	}
	s.dst, s.sealing = dst, true
	_, _ = s.conn.Write(plain) // fails only after an error that Open has returned
	dst, s.dst, s.sealing = s.dst, nil, false
	s.records += uint64(len(plain)/maxRecord) + 1
	return dst
}

// CloseNotify implements loop.Sealer.
func (s *sealer) CloseNotify(dst []byte) []byte {
	dst = s.Seal(dst, nil)
	s.dst, s.sealing = dst, true
	_ = s.conn.CloseWrite() // as in Seal
	dst, s.dst, s.sealing = s.dst, nil, false
	return dst
}

// read is the tls.Conn's view of what was received.
func (s *sealer) read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, errEmpty
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *sealer) write(p []byte) (int, error) {
	if s.sealing {
		s.dst = append(s.dst, p...)
	} else {
		s.said = append(s.said, p...)
	}
	return len(p), nil
}
