package strict

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestTools: what curl and nghttp can be made to ask has a defined outcome.
func TestTools(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %s\n", r.Method, r.RequestURI, len(b), r.Header.Get("range"))
	}))
	t.Cleanup(app.Close)
	u := "http://" + proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(app.Listener.Addr().String()), nil)).Addr
	body := strings.Repeat("b", 100_000)
	for _, c := range []struct{ args, want string }{
		{"curl --http1.0 /x", "GET /x 0 \n200"},
		{"curl --path-as-is /x/../y/./z", "GET /x/../y/./z 0 \n200"},
		{"curl -T - /x", "PUT /x 100000 \n200"},
		{"curl -H Expect:100-continue --data-binary @- /x", "POST /x 100000 \n200"},
		{"curl -X BREW /x", "BREW /x 0 \n200"},
		{"curl -X OPTIONS --request-target * /", "404"}, // no route begins with "*"
		{"curl -r 5-9 /x", "GET /x 0 bytes=5-9\n200"},
		{"curl --http2-prior-knowledge /x", "GET /x 0 \n200"},
		{"curl --http2-prior-knowledge -T - /x", "PUT /x 100000 \n200"},
		{"curl --http2 /x", "GET /x 0 \n200"}, // the upgrade to h2c is passed over
		{"nghttp -p 1 -m 40 /x", strings.Repeat("GET /x 0 \n", 40)},
		{"nghttp -H :method:PUT -d - /x", "PUT /x 100000 \n"},
		{"nghttp --trailer t:v -d - /x", "POST /x 100000 \n"},
		{"nghttp --expect-continue -d - /x", "POST /x 100000 \n"},
		{"nghttp -c 0 -b 1000 -H cookie:a=1 -H cookie:b=2 -m 3 /x", strings.Repeat("GET /x 0 \n", 3)}, // no header table, padding
		{"nghttp -w 1 -W 1 /x", "GET /x 0 \n"},                                                        // windows of one byte
		{"curl -H Transfer-Encoding:chunked -H Connection:close --data-binary @- /x", "POST /x 100000 \n200"},
		{"curl -X CONNECT --request-target a:1 /", "404"},
		{"curl -H Host: /x", "Bad Request400"},
		{"curl --http2-prior-knowledge --tr-encoding -H te:trailers,x /x", "GET /x 0 \n200"},
		{"curl -G --data-urlencode q=%00 /x", "GET /x?q=%2500 0 \n200"},
	} {
		args := strings.Fields(c.args)
		args[len(args)-1] = u + args[len(args)-1]
		if args[0] == "curl" {
			args = append(args, "-s", "-m", "20", "-w", "%{response_code}")
		}
		cmd := exec.Command(args[0], args[1:]...)
		if strings.HasSuffix(c.args, "- /x") {
			cmd.Stdin = strings.NewReader(body)
		}
		if out, err := cmd.Output(); err != nil || string(out) != c.want {
			t.Errorf("%s: %v, %q, want %q", c.args, err, out, c.want)
		}
	}
	if out, err := exec.Command("curl", "-sI", u+"/x").Output(); err != nil || !strings.HasPrefix(string(out), "HTTP/1.1 200 OK\r\n") {
		t.Errorf("HEAD: %v %q", err, out)
	}
}

// listen has serve talk on every connection to the address that it returns, on a
// goroutine of the connection's own; after serve it is closed.
func listen(t testing.TB, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}
