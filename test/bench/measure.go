package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"
)

// script makes wrk send a request such as a browser's API call.
const script = `wrk.method = "GET"
wrk.path = "/api/v1/items?id=42"
wrk.headers["Host"] = "svc7.example.local"
wrk.headers["User-Agent"] = "bench/1.0 (X11; Linux x86_64)"
wrk.headers["Accept"] = "application/json, text/plain, */*"
wrk.headers["Accept-Encoding"] = "identity"
wrk.headers["Accept-Language"] = "en-US,en;q=0.9,zh-CN;q=0.8"
wrk.headers["Authorization"] = "Bearer 0123456789abcdef0123456789abcdef0123456789abcdef"
wrk.headers["X-Request-Id"] = "7f3c1b2a-9d5e-4c6f-8a7b-1c2d3e4f5a6b"
`

var (
	rpsLine    = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	totalLine  = regexp.MustCompile(`(\d+) requests in`)
	errorsLine = regexp.MustCompile(`(?m)^\s*(Non-2xx.*|Socket errors:.*)$`)
)

// measure runs one slot of load and takes the contender's CPU time.
func (s *subject) measure(ctx context.Context, dir string, o *options) error {
	lua := filepath.Join(dir, "wrk.lua")
	if err := os.WriteFile(lua, []byte(script), 0o644); err != nil {
		return err
	}
	before, err := cpuTime(s.pids)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "taskset", "-c", "1", "wrk", "-t1", "-c"+strconv.Itoa(o.conns),
		"-d"+strconv.Itoa(o.seconds)+"s", "-s", lua, "http://"+s.addr).CombinedOutput()
	if err != nil {
		return fmt.Errorf("wrk: %w: %s", err, out)
	}
	after, err := cpuTime(s.pids)
	if err != nil {
		return err
	}
	if e := errorsLine.Find(out); e != nil {
		return fmt.Errorf("load failed: %s", e)
	}
	rps, total := rpsLine.FindSubmatch(out), totalLine.FindSubmatch(out)
	if rps == nil || total == nil {
		return fmt.Errorf("wrk said: %s", out)
	}
	r, err := strconv.ParseFloat(string(rps[1]), 64)
	if err != nil {
		return err
	}
	n, err := strconv.ParseFloat(string(total[1]), 64)
	if err != nil || n == 0 {
		return errors.New("no request was answered")
	}
	s.rps = append(s.rps, r)
	s.cpu = append(s.cpu, float64(after-before)/float64(time.Microsecond)/n)
	s.rssLoad = max(s.rssLoad, rss(s.pids))
	return nil
}

// cpuTime sums what all threads of the processes have run, from the
// scheduler's accounting (nanoseconds).
func cpuTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil || len(tasks) == 0 {
			return 0, fmt.Errorf("process %d is gone", pid)
		}
		for _, t := range tasks {
			b, err := os.ReadFile(t)
			if err != nil {
				continue // a thread that ended between
			}
			f := strings.Fields(string(b))
			if len(f) == 0 {
				continue
			}
			n, err := strconv.ParseInt(f[0], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(n)
		}
	}
	return sum, nil
}

// rss is the resident memory of the processes in KiB.
func rss(pids []int) int {
	n := 0
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		if f := strings.Fields(string(b)); len(f) > 1 {
			p, _ := strconv.Atoi(f[1])
			n += p * os.Getpagesize() / 1024
		}
	}
	return n
}

// probes are asked of every contender before anything is measured.
var probes = []struct{ host, path string }{
	{"svc7.example.local", "/api/v1/items?id=42"},
	{"svc0.example.local", "/svc0/v1/x"},
	{"svc19.example.local", "/"},
}

// sameWork refuses to compare contenders that answer differently or send the
// backend something else.
func sameWork(all []*subject) error {
	for _, p := range probes {
		var first string
		for i, s := range all {
			got, err := ask(s.addr, p.host, p.path)
			if err != nil {
				return fmt.Errorf("%s: %w", s.contender.Name(), err)
			}
			if i == 0 {
				first = got
			} else if got != first {
				return fmt.Errorf("unequal work at %s%s:\n%s answered\n%s\n%s answered\n%s", p.host, p.path,
					all[0].contender.Name(), first, s.contender.Name(), got)
			}
		}
	}
	return nil
}

// added are fields that proxies may differ in: their own name and the time.
var added = map[string]bool{"Server": true, "Date": true, "X-Envoy-Upstream-Service-Time": true, "Connection": true}

func ask(addr, host, path string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var h []string
	for k, v := range resp.Header {
		if !added[k] {
			h = append(h, k+": "+strings.Join(v, ","))
		}
	}
	sort.Strings(h)
	return fmt.Sprintf("%d\n%s\n%d bytes of body", resp.StatusCode, strings.Join(h, "\n"), len(body)), nil
}
