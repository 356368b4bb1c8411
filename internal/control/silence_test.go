package control

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tulle-mesh/tulle/internal/source/file"
)

// piped is a listener with the one connection that it is given.
type piped struct {
	c    chan net.Conn
	over chan struct{}
}

func (l *piped) Accept() (net.Conn, error) {
	select {
	case c := <-l.c:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}
func (l *piped) Close() error   { close(l.over); return nil }
func (l *piped) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "pipe"} }

// A client whose packets vanish is given up within 20 s; one that answers pings,
// and says nothing else, is not.
func TestSilence(t *testing.T) {
	p, err := New(Options{Dir: t.TempDir(), Source: &file.Watcher{}, Socket: shortDir(t) + "/x"})
	ok(t, err)
	defer p.Close()
	for answers := range 4 {
		synctest.Test(t, func(t *testing.T) {
			s := p.server(insecure.NewCredentials())
			l := &piped{make(chan net.Conn, 1), make(chan struct{})}
			done := make(chan error, 1)
			go func() { done <- p.serve(s, l) }()
			ours, theirs := net.Pipe()
			l.c <- theirs
			start := time.Now()
			frames := http2.NewFramer(ours, ours)
			go func() {
				_, _ = io.WriteString(ours, http2.ClientPreface)
				_ = frames.WriteSettings()
			}()
			for pongs := 0; ; {
				f, err := frames.ReadFrame()
				if err != nil {
					break
				}
				if ping, is := f.(*http2.PingFrame); is && !ping.IsAck() && pongs < answers {
					pongs++
					go func(data [8]byte) { _ = frames.WritePing(true, data) }(ping.Data)
				}
			}
			if got, want := time.Since(start), time.Duration(answers)*quiet+20*time.Second; got != want {
				t.Errorf("after %d answers given up after %v, want %v", answers, got, want)
			}
			s.Stop()
			ok(t, <-done)
		})
	}
}
