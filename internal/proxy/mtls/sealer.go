//go:build linux

package mtls

import (
	"crypto/tls"
	"errors"
	"io"

	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

const (
	maxRecord   = 16 << 10         // plain bytes of a record
	maxCipher   = maxRecord + 2048 // bytes of a record behind its header, TLS 1.2's bound
	openScratch = 64 << 10
	bufSmall    = 4 << 10
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
//
// The tls.Conn gets whole records only and is asked no more often than there
// are any: an attempt to read where there is nothing costs it an allocation
// (as does every record, which cannot be avoided), and what is partial would
// stay in a buffer of its own for ever.
type sealer struct {
	conn    *tls.Conn
	loop    *loop.Loop
	part    []byte // a record that is not whole yet
	in      [2][]byte
	dst     []byte // where Seal collects
	sealing bool
	said    []byte // written by conn on its own: alerts, key updates
	records uint64
}

var _ loop.Sealer = (*sealer)(nil)

// Open implements loop.Sealer.
func (s *sealer) Open(in []byte, out func([]byte)) (eof bool, err error) {
	records, part := 0, s.part
	if len(part) > 0 {
		in = s.complete(in)
		if whole(s.part) == 0 {
			return false, nil
		}
		part, s.part = s.part, nil
		records++
	}
	n := 0
	for k := whole(in); k > 0; k = whole(in[n:]) {
		n += k
		records++
	}
	if n < len(in) {
		s.part = append(s.loop.Buffer(len(in)-n), in[n:]...)
	}
	if records == 0 {
		return false, nil
	}
	s.in[0], s.in[1] = part, in[:n]
	err = s.open(records, out)
	if part != nil {
		s.loop.Recycle(part)
	}
	s.in[0], s.in[1] = nil, nil
	switch {
	case err == nil, errors.Is(err, errEmpty):
		return false, nil
	case errors.Is(err, io.EOF):
		return true, nil
	}
	return false, classify(err)
}

// open reads so many records. Some may be none of data.
func (s *sealer) open(records int, out func([]byte)) (err error) {
	size := bufSmall
	if len(s.in[0])+len(s.in[1]) > bufSmall {
		size = openScratch
	}
	buf := s.loop.Buffer(size)
	m := 0
	for ; records > 0 && err == nil; records-- {
		if size == openScratch && cap(buf)-m < maxRecord {
			out(buf[:m])
			m = 0
		}
		var n int
		n, err = s.conn.Read(buf[m:cap(buf)])
		m += n
	}
	if m > 0 {
		out(buf[:m])
	}
	s.loop.Recycle(buf)
	return err
}

// complete adds to the partial record what belongs to it, and returns the rest.
func (s *sealer) complete(in []byte) (rest []byte) {
	if n := recordHeader - len(s.part); n > 0 {
		n = min(n, len(in))
		s.keep(in[:n])
		in = in[n:]
	}
	if len(s.part) < recordHeader {
		return in
	}
	n := min(recordLen(s.part)-len(s.part), len(in))
	s.keep(in[:n])
	return in[n:]
}

// keep appends to the partial record.
func (s *sealer) keep(p []byte) {
	if n := len(s.part) + len(p); n > cap(s.part) {
		b := append(s.loop.Buffer(n), s.part...)
		s.loop.Recycle(s.part)
		s.part = b
	}
	s.part = append(s.part, p...)
}

// recordLen is the length of a record with its header. A length that TLS does
// not allow counts as 0, so that crypto/tls refuses the record at once.
func recordLen(p []byte) int {
	n := int(p[3])<<8 | int(p[4])
	if n > maxCipher {
		n = 0
	}
	return recordHeader + n
}

// whole is the length of the record that p begins with; 0: it is partial.
func whole(p []byte) int {
	if len(p) < recordHeader {
		return 0
	}
	if n := recordLen(p); n <= len(p) {
		return n
	}
	return 0
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
	for i := range s.in {
		if in := s.in[i]; len(in) > 0 {
			n := copy(p, in)
			s.in[i] = in[n:]
			return n, nil
		}
	}
	return 0, errEmpty
}

func (s *sealer) write(p []byte) (int, error) {
	if s.sealing {
		s.dst = append(s.dst, p...)
	} else {
		s.said = append(s.said, p...)
	}
	return len(p), nil
}
