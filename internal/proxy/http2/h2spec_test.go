package http2

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

// h2spec is built from testdata/h2spec, a module of its own so that our
// go.mod does not carry its dependencies.
func TestH2Spec(t *testing.T) {
	if testing.Short() {
		t.Skip("h2spec takes some seconds")
	}
	bin := filepath.Join(t.TempDir(), "h2spec")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Dir = filepath.Join("testdata", "h2spec")
	build.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("build h2spec: %v\n%s", err, out)
		}
		t.Skipf("SKIPPED: h2spec cannot be built here (no module proxy?): %v\n%s", err, out)
	}
	l := streamtest.NewLoop()
	defer l.Close()
	ln := listen(t)
	defer ln.Close()
	o := &ServerOptions{Set: new(Set)}
	l.Listen(ln, func(w stream.Wire) stream.Codec { return NewServer(w, pageAcceptor{}, o) })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	out, err := exec.Command(bin, port).CombinedOutput()
	summary := regexp.MustCompile(`\d+ tests, .*`).FindString(string(out))
	t.Log(summary)
	if err != nil || !strings.Contains(summary, " 0 failed") {
		t.Errorf("%v\n%s", err, out)
	}
}

// pageAcceptor answers every request with a small page when it has ended.
type pageAcceptor struct{}

func (pageAcceptor) Accept(s stream.Stream, h *stream.Head, end bool) stream.Peer {
	p := &streamtest.Peer{Stream: s}
	answer := func() {
		s.SendHead(resp(200, 5), false)
		s.SendData([]byte("hello"), true)
	}
	p.OnDataFn = func(_ []byte, end bool) {
		if end {
			answer()
		}
	}
	p.OnTrailersFn = func(*stream.Head) { answer() }
	if end {
		answer()
	}
	return p
}
