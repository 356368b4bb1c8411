package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// sameWork refuses contenders that answer differently from a backend that is
// asked directly, that send the backend something else, let in what the policy
// forbids, or use other parameters of TLS.
func sameWork(all []*subject) error {
	ref := all[0]
	if ref.c != direct {
		return errors.New("BUG: the first is not direct")
	}
	for _, s := range all[1:] {
		if err := s.check(ref); err != nil {
			return fmt.Errorf("unequal work: %s (%s) as %s: %w", s.c.name, s.column, s.front, err)
		}
	}
	return nil
}

func (s *subject) check(ref *subject) error {
	if s.front == stream {
		return checkEcho(s.addr)
	}
	if s.front == plain {
		if err := s.checkHuge(); err != nil {
			return err
		}
	}
	probes := []struct {
		host int
		path string
	}{{loadHost, loadPath}, {0, "/svc0/v1/x"}, {hostCount - 1, "/"}, {loadHost, bulkPath}}
	for _, p := range probes {
		want, err := ref.ask(http.MethodGet, p.host, p.path)
		if err != nil {
			return fmt.Errorf("direct: %w", err)
		}
		got, err := s.ask(http.MethodGet, p.host, p.path)
		if err != nil {
			return err
		}
		if err := got.equals(want, s.column == filters); err != nil {
			return fmt.Errorf("%s%s: %w", hostName(p.host), p.path, err)
		}
	}
	if got, err := s.ask(http.MethodDelete, loadHost, loadPath); err != nil {
		return err
	} else if got.denied() != (s.column == filters) {
		return fmt.Errorf("DELETE has status %d, gRPC status %q", got.status, got.header.Get("Grpc-Status"))
	}
	if s.front == muxed {
		return nil // the backend does not read header blocks
	}
	if err := s.checkForwarded(); err != nil {
		return err
	}
	return s.checkTLS()
}

// checkHuge passes 10 MiB in both directions.
func (s *subject) checkHuge() error {
	for method, path := range map[string]string{http.MethodGet: hugePath, http.MethodPost: loadPath} {
		r, err := s.ask(method, loadHost, path)
		if err != nil {
			return fmt.Errorf("%s of 10 MiB: %w", method, err)
		}
		want := map[string]int{http.MethodGet: hugeSize, http.MethodPost: 1 << 10}[method]
		if r.status != 200 || len(r.body) != want {
			return fmt.Errorf("%s of 10 MiB: status %d, %d bytes", method, r.status, len(r.body))
		}
	}
	return nil
}

// reply is what matters of an answer.
type reply struct {
	status  int
	header  http.Header
	trailer http.Header
	body    []byte
}

// denied reports whether a policy has answered; gRPC is told by its own status.
func (r *reply) denied() bool { return r.status == 403 || r.header.Get("Grpc-Status") == "7" }

// own are headers in which proxies may differ: their name, the time.
var own = []string{"Server", "Date", "X-Envoy-Upstream-Service-Time", "Connection", "Keep-Alive", "Content-Length"}

func (r *reply) equals(want *reply, filtered bool) error {
	if r.status != want.status {
		return fmt.Errorf("status %d, want %d: %.200s", r.status, want.status, r.body)
	}
	if !bytes.Equal(r.body, want.body) {
		return fmt.Errorf("another body: %d bytes, want %d", len(r.body), len(want.body))
	}
	have, expect := r.header.Clone(), want.header.Clone()
	if filtered {
		if expect.Get(removeOnResponse) != "" {
			expect.Del(removeOnResponse)
		}
		expect.Set(setOnResponse[0], setOnResponse[1])
	}
	for _, n := range own {
		have.Del(n)
		expect.Del(n)
	}
	if a, b := flat(have), flat(expect); a != b {
		return fmt.Errorf("headers are\n%s, want\n%s", a, b)
	}
	if a, b := flat(r.trailer), flat(want.trailer); a != b {
		return fmt.Errorf("trailers are %q, want %q", a, b)
	}
	return nil
}

func flat(h http.Header) string {
	var out []string
	for k, v := range h {
		out = append(out, k+": "+strings.Join(v, ",")+"\n")
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// ask sends one request of the load's kind.
func (s *subject) ask(method string, host int, path string) (*reply, error) {
	t := &http.Transport{DisableCompression: true, DisableKeepAlives: true, Protocols: &http.Protocols{}}
	defer t.CloseIdleConnections()
	scheme, headers := "http", loadHeaders
	var body io.Reader
	switch {
	case s.front == muxed:
		t.Protocols.SetUnencryptedHTTP2(true)
		headers, body = grpcHeaders, bytes.NewReader(grpcBody)
		if method == http.MethodGet {
			method = http.MethodPost
		}
	case s.front == ending && s.c != direct:
		scheme = "https"
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, ServerName: hostName(host)}
		fallthrough
	default:
		t.Protocols.SetHTTP1(true)
	}
	if s.front == plain && method == http.MethodPost {
		body = bytes.NewReader(make([]byte, hugeSize))
	}
	req, err := http.NewRequest(method, scheme+"://"+s.addr+path, body)
	if err != nil {
		return nil, err
	}
	req.Host = hostName(host)
	for _, h := range headers {
		req.Header.Set(h[0], h[1])
	}
	resp, err := (&http.Client{Timeout: 5 * time.Second, Transport: t}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, hugeSize+1))
	if err != nil {
		return nil, err
	}
	return &reply{resp.StatusCode, resp.Header, resp.Trailer, b}, nil
}

// checkForwarded looks at the request as the backend saw it.
func (s *subject) checkForwarded() error {
	r, err := s.ask(http.MethodGet, loadHost, echoPath)
	if err != nil {
		return err
	}
	saw := strings.ToLower(string(r.body))
	want := []string{"get " + echoPath + " http/1.1\r\n", "\r\nhost: " + hostName(loadHost) + "\r\n", "\r\nx-forwarded-proto: http"}
	for _, h := range loadHeaders {
		if h[0] != removeOnRequest {
			want = append(want, strings.ToLower("\r\n"+h[0]+": "+h[1]+"\r\n"))
		}
	}
	if s.front == paired {
		want = append(want, "\r\nx-forwarded-client-cert: ")
	} else {
		want = append(want, "\r\nx-forwarded-for: ")
	}
	var not []string
	if s.column == filters {
		want = append(want, "\r\n"+setOnRequest[0]+": "+setOnRequest[1]+"\r\n")
		not = append(not, "\r\n"+removeOnRequest+":")
	} else {
		want = append(want, "\r\n"+removeOnRequest+": 1\r\n")
	}
	for _, w := range want {
		if !strings.Contains(saw, w) {
			return fmt.Errorf("the backend did not see %q but\n%s", w, saw)
		}
	}
	for _, n := range not {
		if strings.Contains(saw, n) {
			return fmt.Errorf("the backend saw %q:\n%s", n, saw)
		}
	}
	return nil
}

// checkTLS wants TLS 1.3 with AES-128-GCM, X25519 and a P-256 key, and of the pair's second a client
// certificate.
func (s *subject) checkTLS() error {
	addr := s.inner
	switch s.front {
	case ending:
		addr = s.addr
	case paired:
	default:
		return nil
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr,
		&tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}, ServerName: map[bool]string{false: hostName(loadHost), true: pairName}[s.front == paired]})
	if err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	defer conn.Close()
	st := conn.ConnectionState()
	if st.Version != tls.VersionTLS13 || st.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		return fmt.Errorf("TLS is %s, %s", tls.VersionName(st.Version), tls.CipherSuiteName(st.CipherSuite))
	}
	if key, ok := st.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() || st.CurveID != tls.X25519 {
		return fmt.Errorf("TLS with %s and a %T", st.CurveID, st.PeerCertificates[0].PublicKey)
	}
	if s.front != paired {
		return nil
	}
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nhost: " + hostName(loadHost) + "\r\n\r\n"))
	b := make([]byte, 64)
	if n, err := conn.Read(b); err == nil && !bytes.HasPrefix(b[:n], []byte("HTTP/1.1 400")) {
		return fmt.Errorf("a client without a certificate is answered %q", b[:n])
	}
	return nil
}

func checkEcho(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	want := bytes.Repeat([]byte("tulle bench "), 1000)
	go func() { _, _ = c.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("bytes do not come back as they were sent: %w", errors.Join(err))
	}
	return nil
}

// settled waits for the end of background work (a control plane, a cache) so
// that idle memory is idle.
func settled(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}
