package judge

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
)

// request is one line of testdata/requests.txt.
type request struct {
	line    int
	text    string
	method  string
	host    string // as in the Host header
	target  string // path and query
	headers [][2]string
	body    string
	chunks  []string // sent chunked instead of body
	role    string   // "sidecar", "gateway"; empty: both
	status  int
	said    string // the outcome by explain, of generated requests
	backend string // "-": nobody, "*": anybody, "?": the body does not tell
	checks  [][2]string
}

func readRequests(t testing.TB) []request {
	t.Helper()
	b, err := os.ReadFile("testdata/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []request
	for i, line := range strings.Split(string(b), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		r, err := parseRequest(line)
		if err != nil {
			t.Fatalf("requests.txt:%d: %v", i+1, err)
		}
		r.line = i + 1
		out = append(out, r)
	}
	return out
}

func parseRequest(line string) (request, error) {
	r := request{text: line}
	left, right, ok := strings.Cut(line, " -> ")
	if !ok {
		return r, errors.New("no ->")
	}
	w, err := words(left)
	if err != nil || len(w) < 2 {
		return r, fmt.Errorf("want METHOD host/target: %w", err)
	}
	r.method = w[0]
	i := strings.IndexByte(w[1], '/')
	r.host, r.target = w[1][:i], w[1][i:]
	for w = w[2:]; len(w) > 0; w = w[1:] {
		switch {
		case w[0] == "@sidecar" || w[0] == "@gateway":
			r.role = w[0][1:]
			continue
		case len(w) < 2:
			return r, fmt.Errorf("%s wants a value", w[0])
		case w[0] == "-H":
			k, v, _ := strings.Cut(w[1], ":")
			r.headers = append(r.headers, [2]string{k, strings.TrimPrefix(v, " ")})
		case w[0] == "-d":
			r.body = w[1]
		case w[0] == "--size":
			n, err := strconv.Atoi(w[1])
			if err != nil {
				return r, err
			}
			r.body = strings.Repeat("x", n)
		case w[0] == "--chunked-size": // in pieces
			n, err := strconv.Atoi(w[1])
			if err != nil {
				return r, err
			}
			for ; n > 0; n -= 50_000 {
				r.chunks = append(r.chunks, strings.Repeat("x", min(n, 50_000)))
			}
		case w[0] == "--chunked":
			r.chunks = strings.Split(w[1], ",")
		default:
			return r, fmt.Errorf("what is %s", w[0])
		}
		w = w[1:]
	}
	w, err = words(right)
	if err != nil || len(w) < 2 {
		return r, fmt.Errorf("want -> status backend: %w", err)
	}
	if r.status, err = strconv.Atoi(w[0]); err != nil {
		return r, err
	}
	r.backend = w[1]
	for _, c := range w[2:] {
		k, v, ok := strings.Cut(c, "=")
		if !ok {
			v = absent
		}
		r.checks = append(r.checks, [2]string{k, v})
	}
	return r, nil
}

// absent is the value of a check that a header is not there.
const absent = "\x00"

// words splits at spaces; single quotes hold words together.
func words(s string) ([]string, error) {
	var out []string
	var b strings.Builder
	quoted, any := false, false
	for _, c := range s {
		switch {
		case c == '\'':
			quoted, any = !quoted, true
		case c == ' ' && !quoted:
			if any {
				out = append(out, b.String())
			}
			b.Reset()
			any = false
		default:
			b.WriteRune(c)
			any = true
		}
	}
	if quoted {
		return nil, errors.New("a quote is open")
	}
	if any {
		out = append(out, b.String())
	}
	return out, nil
}

// answer is what came back, and what the backends saw of it.
type answer struct {
	Status  int
	Headers map[string][]string
	Text    string // of answers that are not an echo's report
	Echo    *seen
	Tries   int
	Key     string
	Logs    map[string][]map[string]any // access log lines by workload
}

// door is where requests of a role enter: an HTTP proxy takes the whole URL.
type door struct {
	addr  netip.AddrPort
	proxy bool
}

// send writes r by hand, so that nothing is made better on the way.
func (r *request) send(d door, key string) (*answer, error) {
	c, err := net.DialTimeout("tcp", d.addr.String(), 20*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	in := bufio.NewReader(c)
	var b bytes.Buffer
	target := r.target
	if d.proxy {
		target = "http://" + r.host + target
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nx-echo-key: %s\r\n", r.method, target, r.host, key)
	expects := false
	for _, h := range r.headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
		expects = expects || strings.EqualFold(h[0], "expect")
	}
	switch {
	case r.chunks != nil:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for _, chunk := range r.chunks {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(chunk), chunk)
		}
		b.WriteString("0\r\n\r\n")
	case r.body != "" || r.method == "POST":
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(r.body))
		if !expects {
			b.WriteString(r.body)
		}
	default:
		b.WriteString("\r\n")
	}
	if _, err := c.Write(b.Bytes()); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(in, &http.Request{Method: r.method})
	if err == nil && expects && resp.StatusCode == http.StatusContinue {
		if _, err := io.WriteString(c, r.body); err != nil {
			return nil, err
		}
		resp, err = http.ReadResponse(in, &http.Request{Method: r.method})
	}
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	if body, err = plain(resp.Header.Get("content-encoding"), body); err != nil {
		return nil, fmt.Errorf("unpack body: %w", err)
	}
	a := &answer{Key: key, Status: resp.StatusCode, Headers: map[string][]string{}, Text: string(body)}
	for k, v := range resp.Header {
		a.Headers[strings.ToLower(k)] = v
	}
	if resp.ContentLength >= 0 {
		a.Headers["(content-length)"] = []string{strconv.FormatInt(resp.ContentLength, 10)}
	}
	if s, err := parseSeen(body); err == nil {
		a.Echo, a.Text = s, ""
	}
	return a, nil
}

// plain undoes a content coding: encoders may differ.
func plain(coding string, body []byte) ([]byte, error) {
	switch coding {
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	case "br":
		return io.ReadAll(brotli.NewReader(bytes.NewReader(body)))
	}
	return body, nil
}

// parseSeen reads an echo's report.
func parseSeen(b []byte) (*seen, error) {
	s := &seen{}
	if err := json.Unmarshal(b, s); err != nil || s.Backend == "" {
		return nil, fmt.Errorf("no report of a backend: %.200s", b)
	}
	return s, nil
}

// check compares an answer with what is written on the line.
func (r *request) check(a *answer) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if a.Status != r.status {
		say("status %d, want %d (%.200s)", a.Status, r.status, a.Text)
	}
	got := "-"
	if a.Echo != nil {
		got = a.Echo.Backend
	}
	if r.backend != "?" && got != r.backend && (r.backend != "*" || got == "-") {
		say("backend %s, want %s", got, r.backend)
	}
	for _, c := range r.checks {
		if have := r.value(a, c[0]); have != c[1] {
			say("%s is %q, want %q", c[0], have, c[1])
		}
	}
	return wrong
}

// value of something that a check names.
func (r *request) value(a *answer, name string) string {
	list := func(h map[string][]string, k string) string {
		if v, ok := h[k]; ok {
			return strings.Join(v, ",")
		}
		return absent
	}
	switch name {
	case "rule":
		return list(a.Headers, "x-rule")
	case "text":
		return a.Text
	case "tries":
		return strconv.Itoa(a.Tries)
	}
	if h, ok := strings.CutPrefix(name, "got."); ok {
		return list(a.Headers, h)
	}
	if a.Echo == nil {
		return "(no backend)"
	}
	switch name {
	case "path":
		return a.Echo.URI
	case "host":
		return a.Echo.Host
	case "body":
		return a.Echo.Body
	}
	if h, ok := strings.CutPrefix(name, "see."); ok {
		return list(a.Echo.Headers, h)
	}
	return "(no check " + name + ")"
}
