package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// subject is a contender that runs, with what was measured of it.
type subject struct {
	c      *contender
	column string
	front  front
	*running
	rssIdle int // KiB
}

// slot is one measurement of one contender in one round.
type slot struct {
	CPU float64 `json:"cpu,omitempty"` // microseconds per request
	RPS float64 `json:"rps,omitempty"`
	RSS int     `json:"rss,omitempty"` // KiB, at its end
	// Objects allocated per request; nil: unknown.
	Allocs *float64 `json:"allocs,omitempty"`
	P50    float64  `json:"p50,omitempty"` // at a fixed rate, microseconds
	P99    float64  `json:"p99,omitempty"`
	P999   float64  `json:"p999,omitempty"`

	// Of a scenario: the latencies without it, handshakes made in it, KiB of
	// memory per 1,000 idle connections.
	Quiet50     float64 `json:"quiet50,omitempty"`
	Quiet99     float64 `json:"quiet99,omitempty"`
	Quiet999    float64 `json:"quiet999,omitempty"`
	Handshakes  float64 `json:"handshakes,omitempty"`
	PerThousand float64 `json:"per_thousand,omitempty"`

	// Of a scenario: what the longest round of a loop took at most, in
	// microseconds, and of 1,000 rounds those over 1 ms. By the clock: on a busy
	// machine more than the work.
	Longest float64 `json:"longest,omitempty"`
	OverMS  float64 `json:"over_ms,omitempty"`
}

// saturate loads the subject with one shape for some seconds.
func (s *subject) saturate(ctx context.Context, b *bench, sh *shape, last time.Duration) (slot, error) {
	var allocs, counting float64
	if s.allocs != nil {
		first, err := s.allocs()
		if err != nil {
			return slot{}, err
		}
		if allocs, err = s.allocs(); err != nil {
			return slot{}, err
		}
		counting = allocs - first // what asking costs
	}
	before, err := cpuTime(s.pids)
	if err != nil {
		return slot{}, err
	}
	var n, rps float64
	switch {
	case sh.front == stream || sh.grpc != "":
		n, rps, err = b.ownLoad(ctx, sh, s.addr, last)
	case sh.front == muxed:
		n, rps, err = b.h2load(ctx, sh, s.addr, last)
	default:
		scheme := "http"
		if s.front == ending && s.c != direct {
			scheme = "https"
		}
		n, rps, err = b.wrk(ctx, sh, scheme+"://"+s.addr, last)
	}
	if err != nil {
		return slot{}, err
	}
	after, err := cpuTime(s.pids)
	if err != nil {
		return slot{}, err
	}
	if n == 0 {
		return slot{}, errors.New("no request was answered")
	}
	out := slot{RPS: rps, RSS: rss(s.pids)}
	if s.allocs != nil {
		now, err := s.allocs()
		if err != nil {
			return slot{}, err
		}
		per := max(now-allocs-counting, 0) / n
		out.Allocs = &per
	}
	if len(s.pids) > 0 {
		out.CPU = float64(after-before) / float64(time.Microsecond) / n
	}
	return out, nil
}

// pace asks at a fixed rate and takes latencies.
func (s *subject) pace(ctx context.Context, b *bench, sh *shape, last time.Duration) (slot, error) {
	f := sh.front
	if f == paired || f == fed || f == ending && s.c == direct {
		f = plain
	}
	r, err := b.callLoad(ctx, last, "-front", string(f), "-addr", s.addr, "-conns", "16", "-multi", strconv.Itoa(sh.multi),
		"-size", strconv.Itoa(sh.size), "-rate", strconv.Itoa(b.rate))
	if err != nil {
		return slot{}, err
	}
	return slot{P50: r.P50, P99: r.P99, P999: r.P999}, nil
}

// onLoadCPU runs a command with a limit of time and returns what it wrote.
func (b *bench) onLoadCPU(ctx context.Context, last time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, last+20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "taskset", append([]string{"-c", loadCPU}, b.first(args)...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %.2000s", filepath.Base(args[0]), err, out)
	}
	return string(out), nil
}

func (b *bench) callLoad(ctx context.Context, last time.Duration, args ...string) (*loadResult, error) {
	out, err := b.onLoadCPU(ctx, last, append([]string{b.self, "load", "-last", last.String()}, args...)...)
	if err != nil {
		return nil, err
	}
	r := &loadResult{}
	return r, json.Unmarshal([]byte(out), r)
}

func (b *bench) ownLoad(ctx context.Context, sh *shape, addr string, last time.Duration) (n, rps float64, err error) {
	args := []string{"-front", string(sh.front), "-addr", addr, "-conns", strconv.Itoa(sh.conns), "-multi", strconv.Itoa(sh.multi), "-size", strconv.Itoa(sh.size)}
	if sh.grpc != "" {
		args = append(args, "-grpc", sh.grpc)
	}
	r, err := b.callLoad(ctx, last, args...)
	if err != nil {
		return 0, 0, err
	}
	return float64(r.Requests), float64(r.Requests) / r.Seconds, nil
}

var (
	wrkRPS     = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkTotal   = regexp.MustCompile(`(\d+) requests in`)
	wrkErrors  = regexp.MustCompile(`(?m)^\s*(Non-2xx.*|Socket errors:.*)$`)
	h2Done     = regexp.MustCompile(`requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed`)
	h2Rate     = regexp.MustCompile(`finished in ([0-9.]+)(us|ms|s), ([0-9.]+) req/s`)
	h2Statuses = regexp.MustCompile(`status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx`)
)

func (b *bench) wrk(ctx context.Context, sh *shape, url string, last time.Duration) (n, rps float64, err error) {
	var lua strings.Builder
	fmt.Fprintf(&lua, "wrk.method = \"GET\"\nwrk.path = %q\nwrk.headers[\"Host\"] = %q\n", sh.path, hostName(loadHost))
	if sh.body > 0 {
		fmt.Fprintf(&lua, "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", %d)\n", sh.body)
	}
	for _, h := range loadHeaders {
		fmt.Fprintf(&lua, "wrk.headers[%q] = %q\n", h[0], h[1])
	}
	file := filepath.Join(b.dir, "wrk.lua")
	if err := os.WriteFile(file, []byte(lua.String()), 0o600); err != nil {
		return 0, 0, err
	}
	out, err := b.onLoadCPU(ctx, last, "wrk", "-t1", "-c"+strconv.Itoa(sh.conns), "-d"+strconv.Itoa(int(last.Seconds()))+"s", "-s", file, url)
	if err != nil {
		return 0, 0, err
	}
	if e := wrkErrors.FindString(out); e != "" {
		return 0, 0, fmt.Errorf("the load failed: %s", e)
	}
	r, t := wrkRPS.FindStringSubmatch(out), wrkTotal.FindStringSubmatch(out)
	if r == nil || t == nil {
		return 0, 0, fmt.Errorf("wrk said: %s", out)
	}
	return number(t[1]), number(r[1]), nil
}

func (b *bench) h2load(ctx context.Context, sh *shape, addr string, last time.Duration) (n, rps float64, err error) {
	file := filepath.Join(b.dir, "body")
	if err := os.WriteFile(file, grpcBody, 0o600); err != nil {
		return 0, 0, err
	}
	args := []string{"h2load", "-t1", "-c" + strconv.Itoa(sh.conns), "-m" + strconv.Itoa(sh.multi), "-D", strconv.Itoa(int(last.Seconds())), "-d", file,
		"-H", ":authority: " + hostName(loadHost)}
	for _, h := range grpcHeaders {
		args = append(args, "-H", h[0]+": "+h[1])
	}
	out, err := b.onLoadCPU(ctx, last, append(args, "http://"+addr+sh.path)...)
	if err != nil {
		return 0, 0, err
	}
	d, r, st := h2Done.FindStringSubmatch(out), h2Rate.FindStringSubmatch(out), h2Statuses.FindStringSubmatch(out)
	if d == nil || r == nil || st == nil {
		return 0, 0, fmt.Errorf("h2load said: %s", out)
	}
	if number(d[4]) > 0 || number(st[2])+number(st[3])+number(st[4]) > 0 {
		return 0, 0, fmt.Errorf("the load failed: %s; %s", d[0], st[0])
	}
	return number(d[2]), number(r[3]), nil
}

// number reads digits that a pattern has found.
func number(s string) float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		panic("BUG: not a number: " + s)
	}
	return n
}

// cpuTime sums what all threads of the processes have run, from the
// scheduler's accounting (nanoseconds).
func cpuTime(pids []int) (time.Duration, error) {
	var total time.Duration
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
			total += time.Duration(n)
		}
	}
	return total, nil
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
