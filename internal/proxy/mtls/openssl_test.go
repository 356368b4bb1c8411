//go:build linux

package mtls

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// OpenSSL as client: it can ask for key updates, which crypto/tls cannot.
func TestOpenSSLWithKeyUpdates(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	w := newWorld(t)
	dir := t.TempDir()
	for name, b := range map[string][]byte{"ca": w.ca.pem, "cert": w.secrets["client"].Chain, "key": w.secrets["client"].Key} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.Command(openssl, "s_client", "-connect", ln.Addr().String(), "-CAfile", dir+"/ca", "-cert", dir+"/cert",
		"-key", dir+"/key", "-tls1_3", "-verify_return_error")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // key updates are told there
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(wait, func() { cmd.Process.Kill() })
	defer kill.Stop()
	ac, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	r := recv(t, w.serveFD(t, dupFD(t, ac), strict, nil))
	if r.err != nil {
		t.Fatal(r.err)
	}
	lines := bufio.NewScanner(out)
	expect := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("openssl did not say %q", want)
	}
	for i := range 5 {
		fmt.Fprintf(in, "line %d\n", i)
		expect(fmt.Sprintf("line %d", i))
		fmt.Fprintf(in, "%s\n", []string{"K", "k"}[i%2]) // both directions, or one
		expect("KEYUPDATE")
	}
	fmt.Fprintf(in, "the end\n")
	expect("the end")
	fmt.Fprintf(in, "Q\n")
	if err := recv(t, r.closed); err != nil && !errors.Is(err, loop.ErrTruncated) {
		t.Error(err)
	}
	in.Close()
	cmd.Wait()
}

func BenchmarkEchoTLS(b *testing.B) {
	w := newWorld(b)
	nc, ch := w.serve(b, "127.0.0.1", strict, nil)
	tc := tls.Client(nc, w.clientConfig())
	if err := tc.Handshake(); err != nil {
		b.Fatal(err)
	}
	recv(b, ch)
	msg := make([]byte, 1300)
	b.ReportAllocs()
	for b.Loop() {
		tc.Write(msg)
		io.ReadFull(tc, msg)
	}
}

func BenchmarkHandshake(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		nc, ch := w.serve(b, "127.0.0.1", strict, nil)
		if err := tls.Client(nc, w.clientConfig()).Handshake(); err != nil {
			b.Fatal(err)
		}
		recv(b, ch)
		nc.Close()
	}
}
