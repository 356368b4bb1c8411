package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// prefix is the length of what stands before a message: a flag and a length.
const prefix = 5

// firstPiece is how much of a message is taken room for on the peer's word.
const firstPiece = 1 << 20

var errCompressed = errors.New("a compressed message, which was not offered")

// splitter finds the messages in a body that comes in pieces.
type splitter struct {
	max  int // of a message
	head [prefix]byte
	have int // of head
	msg  []byte
	left int // of msg
}

// feed takes a piece and hands every message that is whole to out, which may
// keep it. After an error the splitter is of no more use.
func (s *splitter) feed(p []byte, out func([]byte)) error {
	for len(p) > 0 {
		if s.have < prefix {
			n := copy(s.head[s.have:], p)
			s.have += n
			p = p[n:]
			if s.have < prefix {
				return nil
			}
			if err := s.begin(); err != nil {
				return err
			}
		}
		n := min(s.left, len(p))
		if len(s.msg)+n > cap(s.msg) {
			s.grow(n)
		}
		s.msg = append(s.msg, p[:n]...)
		s.left -= n
		p = p[n:]
		if s.left == 0 {
			m := s.msg
			s.msg, s.have = nil, 0
			out(m)
		}
	}
	return nil
}

// begin looks at a prefix.
func (s *splitter) begin() error {
	n := binary.BigEndian.Uint32(s.head[1:])
	switch {
	case s.head[0] == 1:
		return errCompressed
	case s.head[0] != 0:
		return fmt.Errorf("a message with flag %#x", s.head[0])
	case uint64(n) > uint64(s.max):
		return fmt.Errorf("a message of %d bytes, more than %d", n, s.max)
	}
	s.left = int(n)
	s.msg = make([]byte, 0, min(s.left, firstPiece))
	return nil
}

// grow makes room for n more bytes: twice as much as came, but never more than
// the message has.
func (s *splitter) grow(n int) {
	want := max(min(2*cap(s.msg), len(s.msg)+s.left), len(s.msg)+n)
	s.msg = append(make([]byte, 0, want), s.msg...)
}

// partial reports whether a message has begun and not ended.
func (s *splitter) partial() bool { return s.have > 0 }
