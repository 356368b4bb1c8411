package proxy

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// messages is the way of the proxy's own log to standard error: nobody waits
// for whoever reads that, or does not. Beyond maxMessages lines are dropped
// and counted.
type messages struct {
	lines   chan []byte
	done    chan struct{}
	end     sync.Once
	dropped atomic.Uint64
}

const (
	maxMessages = 512
	// lastWords is how long the end of the process waits for the reader.
	lastWords = 500 * time.Millisecond
)

func newMessages(to io.Writer) *messages {
	m := &messages{lines: make(chan []byte, maxMessages), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		var told uint64
		for l := range m.lines {
			if l == nil {
				return
			}
			if _, err := to.Write(l); err != nil {
				m.dropped.Add(1)
				continue
			}
			if n := m.dropped.Load(); n > told {
				_, _ = fmt.Fprintf(to, "tulle-proxy: %d messages were lost, nobody read them\n", n-told)
				told = n
			}
		}
	}()
	return m
}

// Write takes one message.
func (m *messages) Write(p []byte) (int, error) {
	select {
	case m.lines <- append([]byte(nil), p...):
	default:
		m.dropped.Add(1)
	}
	return len(p), nil
}

// close waits a moment for what is still to be written.
func (m *messages) close() {
	m.end.Do(func() {
		t := time.NewTimer(lastWords)
		defer t.Stop()
		select {
		case m.lines <- nil:
		case <-t.C:
			return
		}
		select {
		case <-m.done:
		case <-t.C:
		}
	})
}
