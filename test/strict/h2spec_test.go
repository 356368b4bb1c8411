package strict

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestH2Spec runs all cases of h2spec against listeners of a whole proxy, in
// front of a program that speaks HTTP/1 and of one that speaks HTTP/2. The tool
// is a module of its own, so that our go.mod does not carry its dependencies.
func TestH2Spec(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "h2spec")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Dir = filepath.Join("..", "..", "internal", "proxy", "http2", "testdata", "h2spec")
	build.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build h2spec: %v\n%s", err, out)
	}
	// The program answers when no more requests come: one case opens as many
	// streams as it may, and one more, which a quick program would let it.
	var asked atomic.Int32
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for n := asked.Add(1); ; n = asked.Load() {
			if time.Sleep(50 * time.Millisecond); n == asked.Load() {
				break
			}
		}
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "hello")
	}))
	app.Config.Protocols = new(http.Protocols)
	app.Config.Protocols.SetHTTP1(true)
	app.Config.Protocols.SetUnencryptedHTTP2(true)
	app.Start()
	t.Cleanup(app.Close)
	whole := regexp.MustCompile(`(?m)^(\d+) tests, (\d+) passed, 0 skipped, 0 failed$`)
	for _, mode := range []struct {
		name string
		args []string
	}{{"plain", nil}, {"TLS", []string{"tls"}}} {
		for _, up := range []conf.UpstreamProtocol{conf.UpHTTP1, conf.UpHTTP2} {
			s := proxytest.Forward(proxytest.To(app.Listener.Addr().String()), func(p *proxytest.Parts) {
				p.Cluster.Protocol, p.HTTP.MaxStreams = up, 50
				p.HTTP.Codec = conf.CodecHTTP2 // to auto, a preface that is wrong is a wrong HTTP/1 request
				if mode.args != nil {
					p.Listener.Chains[0].TLS = &conf.ServerTLS{Certificates: []string{"default"}, ALPN: []string{"h2", "http/1.1"}}
				}
			})
			if mode.args != nil {
				s.Secrets = proxytest.NewCA(t).Secrets(t, proxytest.ServerURI, time.Hour)
			}
			_, port, _ := net.SplitHostPort(proxytest.Start(t, &proxy.Bootstrap{}, s).Addr)
			out, err := exec.Command(bin, append([]string{port}, mode.args...)...).CombinedOutput()
			sum := whole.FindStringSubmatch(string(out))
			if err != nil || sum == nil || sum[1] != sum[2] || len(sum[1]) < 3 {
				t.Errorf("%s, program speaks %v: %v\n%s", mode.name, up, err, failures(string(out)))
				continue
			}
			t.Logf("%s, program speaks %v: %s", mode.name, up, sum[0])
		}
	}
}

// failures is what h2spec says at its end, which repeats all that failed.
func failures(out string) string {
	if i := strings.LastIndex(out, "Failures:"); i >= 0 {
		return out[i:]
	}
	return out
}
