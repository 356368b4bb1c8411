package demo

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Host is the name that the shop's gateway serves.
const Host = "shop.example.com"

// Shop is a running demo, as its stories see it.
type Shop struct {
	Gateway string // host:port where the gateway listens
	Users   string // host:port where the sidecar of users listens for peers
	Dir     string // the mesh's YAML, which a story may change
	Program string // the tulle program, to ask for explanations
}

// Story is something to try, with a check that does it.
type Story struct {
	Name  string
	Text  string
	Try   func(s *Shop) string // a line for the shell
	check func(ctx context.Context, s *Shop) (string, error)
}

// Stories in the order in which they are told.
var Stories = []Story{
	{"way in", "a request through the gateway: orders asks users and payments, payments asks the ledger",
		func(s *Shop) string { return s.curl("/api/orders", "") }, checkWayIn},
	{"canary", "one request in ten goes to reviews v2",
		func(s *Shop) string {
			return fmt.Sprintf("for i in $(seq 100); do %s -s; done | grep -c '\"version\":\"v2\"'", s.curl("/api/reviews", ""))
		}, checkCanary},
	{"header A/B", "a header chooses reviews v2",
		func(s *Shop) string { return s.curl("/api/reviews", "x-gray: true") }, checkHeader},
	{"mTLS", "nobody gets in without a certificate of the mesh",
		func(s *Shop) string { return "curl -i http://" + s.Users + "/api/users   # refused" }, checkRefused},
	{"denied", "only orders may call payments; the gateway may not",
		func(s *Shop) string { return s.curl("/api/payments", "") }, checkDenied},
	{"why", "the same decision, explained from the files alone",
		func(s *Shop) string {
			return fmt.Sprintf("tulle explain -f %s --gateway shop/shop GET http://%s/api/payments", s.Dir, Host)
		}, checkWhy},
	{"fault", "a header breaks the call to recommendations on purpose",
		func(s *Shop) string { return s.curl("/api/products?call=recommendations", "x-demo-fault: abort") }, checkFault},
	{"database", "plain TCP behind mTLS: payments may open the ledger, reviews may not",
		func(s *Shop) string { return s.curl("/api/reviews?ledger", "") }, checkLedger},
	{"live change", "a changed file changes the traffic, and no request is lost",
		func(s *Shop) string {
			return "edit " + filepath.Join(s.Dir, "20-gateway.yaml") + ", then try the canary again"
		}, checkChange},
}

// Check does one story and returns what was seen.
func (st *Story) Check(ctx context.Context, s *Shop) (string, error) { return st.check(ctx, s) }

func (s *Shop) curl(path, header string) string {
	if header != "" {
		header = " -H '" + header + "'"
	}
	return fmt.Sprintf("curl -H 'Host: %s'%s http://%s%s", Host, header, s.Gateway, path)
}

var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 16}}

// get asks the gateway.
func (s *Shop) get(ctx context.Context, path, header, value string) (int, *answer, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Gateway+path, nil)
	if err != nil {
		return 0, nil, "", err
	}
	req.Host = Host
	if header != "" {
		req.Header.Set(header, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil, "", err
	}
	a := &answer{}
	if json.Unmarshal(b, a) != nil {
		a = nil
	}
	return resp.StatusCode, a, strings.TrimSpace(string(b)), nil
}

// want asks and insists on an answer of a program.
func (s *Shop) want(ctx context.Context, path, header, value string) (*answer, error) {
	code, a, text, err := s.get(ctx, path, header, value)
	if err != nil {
		return nil, err
	}
	if code != 200 || a == nil {
		return nil, fmt.Errorf("GET %s: %d %s", path, code, text)
	}
	return a, nil
}

func checkWayIn(ctx context.Context, s *Shop) (string, error) {
	a, err := s.want(ctx, "/api/orders", "", "")
	if err != nil {
		return "", err
	}
	if len(a.Calls) != 2 || a.Calls[0].Status != 200 || a.Calls[1].Status != 200 {
		return "", fmt.Errorf("orders could not reach the others: %+v", a.Calls)
	}
	if want := "spiffe://cluster.local/ns/shop/sa/orders"; a.Calls[1].Caller != want {
		return "", fmt.Errorf("payments saw the caller %q, want %s", a.Calls[1].Caller, want)
	}
	return "payments saw " + a.Calls[1].Caller, nil
}

const canaryRequests = 1000

func checkCanary(ctx context.Context, s *Shop) (string, error) {
	v2 := 0
	for range canaryRequests {
		a, err := s.want(ctx, "/api/reviews", "", "")
		if err != nil {
			return "", err
		}
		if a.Version == "v2" {
			v2++
		}
	}
	// 10 % of 1,000 with a standard deviation below 10: five of them.
	if v2 < 50 || v2 > 150 {
		return "", fmt.Errorf("%d of %d went to v2, want about 100", v2, canaryRequests)
	}
	return fmt.Sprintf("%d of %d requests went to v2", v2, canaryRequests), nil
}

func checkHeader(ctx context.Context, s *Shop) (string, error) {
	for range 50 {
		a, err := s.want(ctx, "/api/reviews", "x-gray", "true")
		if err != nil {
			return "", err
		}
		if a.Version != "v2" {
			return "", fmt.Errorf("x-gray: true went to %s", a.Version)
		}
	}
	return "50 of 50 requests went to v2", nil
}

func checkRefused(ctx context.Context, s *Shop) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Users+"/api/users", nil)
	if err != nil {
		return "", err
	}
	plain := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	if resp, err := plain.Do(req); err == nil {
		_ = resp.Body.Close()
		return "", fmt.Errorf("plain text was answered with %s", resp.Status)
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}}} // the server is not what is tested
	c, err := d.DialContext(ctx, "tcp", s.Users)
	if err == nil {
		// TLS 1.3 tells a client without certificate only when it reads.
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		_, _ = io.WriteString(c, "GET /api/users HTTP/1.1\r\nHost: users\r\n\r\n")
		line, rerr := bufio.NewReader(c).ReadString('\n')
		_ = c.Close()
		if rerr == nil {
			return "", fmt.Errorf("a client without certificate was answered: %s", strings.TrimSpace(line))
		}
		if errors.Is(rerr, os.ErrDeadlineExceeded) {
			return "", errors.New("a client without certificate was kept waiting")
		}
		err = rerr
	}
	return "plain text: connection closed; TLS without certificate: " + lastPart(err), nil
}

func lastPart(err error) string {
	s := err.Error()
	return s[strings.LastIndex(s, ": ")+1:]
}

func checkDenied(ctx context.Context, s *Shop) (string, error) {
	code, _, text, err := s.get(ctx, "/api/payments", "", "")
	if err != nil {
		return "", err
	}
	if code != 403 || text != "RBAC: access denied" {
		return "", fmt.Errorf("payments answered the gateway %d %s", code, text)
	}
	return "403 " + text, nil
}

// explanation is the part of `tulle explain --json` that the story reads.
type explanation struct {
	Outcome string `json:"outcome"`
	Steps   []struct {
		Object, File, Verdict, Why string
		Line                       int
	} `json:"steps"`
}

func checkWhy(ctx context.Context, s *Shop) (string, error) {
	cmd := exec.CommandContext(ctx, s.Program, "explain", "-f", s.Dir, "--gateway", "shop/shop", "--to", "shop/payments",
		"--json", "GET", "http://"+Host+"/api/payments")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return "", fmt.Errorf("explain: %w", err)
	}
	var e explanation
	if err := json.Unmarshal(out, &e); err != nil {
		return "", fmt.Errorf("explain: %w", err)
	}
	if e.Outcome != "denied" {
		return "", fmt.Errorf("explain says %s, want denied", e.Outcome)
	}
	for _, st := range e.Steps {
		if strings.Contains(st.Object, "payments-only-for-orders") && st.Line > 0 {
			return fmt.Sprintf("%s at %s:%d", st.Object, filepath.Base(st.File), st.Line), nil
		}
	}
	return "", errors.New("explain does not name the policy")
}

func checkFault(ctx context.Context, s *Shop) (string, error) {
	a, err := s.want(ctx, "/api/products?call=recommendations", "x-demo-fault", "abort")
	if err != nil {
		return "", err
	}
	if len(a.Calls) != 1 || a.Calls[0].Status != 418 || a.Calls[0].Text != "fault filter abort" {
		return "", fmt.Errorf("products saw %+v, want 418 fault filter abort", a.Calls)
	}
	if a, err = s.want(ctx, "/api/products?call=recommendations", "", ""); err != nil {
		return "", err
	}
	if a.Calls[0].Status != 200 {
		return "", fmt.Errorf("without the header products saw %+v", a.Calls)
	}
	return "products saw 418 fault filter abort, and 200 without the header", nil
}

func checkLedger(ctx context.Context, s *Shop) (string, error) {
	a, err := s.want(ctx, "/api/orders?call=payments", "", "")
	if err != nil {
		return "", err
	}
	if len(a.Calls) != 1 || a.Calls[0].Ledger != "balance 1337" {
		return "", fmt.Errorf("payments heard from the ledger: %+v", a.Calls)
	}
	if a, err = s.want(ctx, "/api/reviews?ledger", "", ""); err != nil {
		return "", err
	}
	if !strings.HasPrefix(a.Ledger, "refused") {
		return "", fmt.Errorf("reviews could open the ledger: %s", a.Ledger)
	}
	return "payments: balance 1337; reviews: connection closed", nil
}

// checkChange moves all of the canary's traffic to v2 by editing a file, under
// load, and back.
func checkChange(ctx context.Context, s *Shop) (string, error) {
	file := filepath.Join(s.Dir, "20-gateway.yaml")
	before, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	after := strings.Replace(strings.Replace(string(before), "weight: 90", "weight: 0", 1), "weight: 10", "weight: 100", 1)
	defer func() { _ = replaceFile(file, before) }()
	load, stop := context.WithCancel(ctx)
	var sent, failed atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for load.Err() == nil {
				if _, err := s.want(ctx, "/api/reviews", "", ""); err != nil {
					failed.Add(1)
				}
				sent.Add(1)
			}
		})
	}
	took, err := switchOver(ctx, s, file, []byte(after))
	stop()
	wg.Wait()
	if err != nil {
		return "", err
	}
	if n := failed.Load(); n > 0 {
		return "", fmt.Errorf("%d of %d requests failed", n, sent.Load())
	}
	return fmt.Sprintf("after %d ms all went to v2; %d requests, none failed", took.Milliseconds(), sent.Load()), nil
}

// switchOver writes the file and waits until 100 answers in a row are v2's.
func switchOver(ctx context.Context, s *Shop, file string, text []byte) (time.Duration, error) {
	start := time.Now()
	if err := replaceFile(file, text); err != nil {
		return 0, err
	}
	var since time.Time
	for row := 0; row < 100; {
		a, err := s.want(ctx, "/api/reviews", "", "")
		if err != nil {
			return 0, err
		}
		if a.Version != "v2" {
			row = 0
		} else if row++; row == 1 {
			since = time.Now()
		}
		if time.Since(start) > 10*time.Second {
			return 0, errors.New("the change had no effect within 10 s")
		}
	}
	return since.Sub(start), nil
}

// replaceFile writes a file as editors do: whole, by rename.
func replaceFile(path string, text []byte) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
