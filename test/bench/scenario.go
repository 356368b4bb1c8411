package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/xds"
)

// scenario is something that happens to a contender while requests come at the
// fixed rate: the latencies then stand beside those of a quiet time.
type scenario struct {
	idle     int  // connections are open and wait
	slow     int  // readers of 10 MiB take their time
	peers    int  // peers shake hands, one after the other in each of so many places
	clusters int  // so many arrive
	full     bool // handshakes alone: their cost
	once     bool // one round only: what it leaves behind would hide the next
}

// play measures the subject with the scenario, and without it.
func (s *subject) play(ctx context.Context, b *bench, sh *shape) (out slot, err error) {
	sc, last := sh.scene, b.window(2*time.Second)
	switch {
	case s.c == direct && sc.full:
		return slot{}, nil
	case s.c == direct: // what the latencies of the others are compared with
		return s.pace(ctx, b, sh, last)
	case sc.full:
		return s.handshakes(ctx, b, sh)
	case sc.idle > 0: // their memory first, before a load leaves some
		return s.besideIdle(ctx, b, sh)
	}
	quiet, err := s.pace(ctx, b, sh, last)
	if err != nil {
		return out, err
	}
	var before map[float64]float64
	if s.rounds != nil {
		if before, err = s.rounds(); err != nil {
			return out, err
		}
	}
	switch {
	case sc.clusters > 0:
		out, err = s.whileArriving(ctx, b, sh)
	case sc.slow > 0:
		out, err = s.beside(ctx, b, sh, nil, "-kind", "slow", "-addr", s.addr, "-conns", strconv.Itoa(sc.slow))
	default:
		out, err = s.beside(ctx, b, sh, nil, s.peerArgs(sc.peers)...)
	}
	out.Quiet50, out.Quiet99, out.Quiet999 = quiet.P50, quiet.P99, quiet.P999
	if err == nil && s.rounds != nil {
		var after map[float64]float64
		after, err = s.rounds()
		out.Longest, out.OverMS = longRounds(before, after)
	}
	return out, err
}

// longRounds says of the rounds between two times what the longest took at most
// (microseconds; more than the largest bound is a second), and how many of 1,000
// took over 1 ms.
func longRounds(before, after map[float64]float64) (longest, over float64) {
	n, short := 0.0, 0.0
	for _, le := range slices.Sorted(maps.Keys(after)) { // each counts those below too
		k := after[le] - before[le]
		if k > n {
			n, longest = k, min(le, 1)*1e6
		}
		if le <= .001 {
			short = k
		}
	}
	if n > 0 {
		over = (n - short) * 1000 / n
	}
	return longest, over
}

// peerArgs make a process shake hands with the second of the pair.
func (s *subject) peerArgs(places int) []string {
	return []string{"-kind", "handshakes", "-addr", s.inner, "-conns", strconv.Itoa(places), "-tls", "-name", pairName, "-cert", s.client.cert, "-key", s.client.key}
}

// beside takes latencies, and memory at their end, while a process holds.
// stands is called before when it is ready; it may be nil.
func (s *subject) beside(ctx context.Context, b *bench, sh *shape, stands func(), args ...string) (out slot, err error) {
	h, err := b.hold(ctx, args...)
	if err != nil {
		return out, err
	}
	defer h.stop()
	if stands != nil {
		stands()
	}
	if out, err = s.pace(ctx, b, sh, b.window(2*time.Second)); err != nil {
		return out, err
	}
	out.RSS = rss(s.pids)
	held, err := h.result()
	if err != nil {
		return out, err
	}
	if held.Failed > 0 {
		return out, fmt.Errorf("%d handshakes failed beside %d: %s", held.Failed, held.Done, h.said())
	}
	out.Handshakes = float64(held.Done)
	return out, nil
}

// besideIdle takes the memory of idle connections and the latency beside them,
// then that of a quiet time.
func (s *subject) besideIdle(ctx context.Context, b *bench, sh *shape) (out slot, err error) {
	before, n := rss(s.pids), idleOf(sh.scene.idle)
	if n < sh.scene.idle {
		fmt.Fprintf(os.Stderr, "%s: the limit of open files allows %d connections\n", sh.name, n)
	}
	args := []string{"-kind", "idle", "-addr", s.addr, "-conns", strconv.Itoa(n)}
	if s.front == ending {
		args = append(args, "-tls")
	}
	with := 0
	out, err = s.beside(ctx, b, sh, func() { settled(ctx); with = rss(s.pids) }, args...)
	if err != nil {
		return out, err
	}
	out.RSS, out.PerThousand = with, float64(with-before)*1000/float64(n)
	settled(ctx)
	quiet, err := s.pace(ctx, b, sh, b.window(2*time.Second))
	out.Quiet50, out.Quiet99, out.Quiet999 = quiet.P50, quiet.P99, quiet.P999
	return out, err
}

// whileArriving takes latencies while clusters arrive, and the memory with them
// when they have; then they leave.
func (s *subject) whileArriving(ctx context.Context, b *bench, sh *shape) (out slot, err error) {
	if b.many == nil {
		if b.many, err = manyClusters(sh.scene.clusters); err != nil {
			return out, err
		}
	}
	type paced struct {
		slot
		error
	}
	done := make(chan paced, 1)
	go func() {
		m, err := s.pace(ctx, b, sh, b.window(2*time.Second))
		done <- paced{m, err}
	}()
	time.Sleep(b.window(2*time.Second) / 5)
	err = s.arrive(ctx, b.many)
	p := <-done
	if err == nil {
		err = p.error
	}
	if err != nil {
		return out, err
	}
	settled(ctx)
	out = p.slot
	out.RSS = rss(s.pids)
	if err := s.arrive(ctx, []xds.Resource(nil)); err != nil {
		return out, fmt.Errorf("leaving: %w", err)
	}
	settled(ctx)
	return out, nil
}

// handshakes takes what a handshake, with one request after it, costs the
// second of the pair.
func (s *subject) handshakes(ctx context.Context, b *bench, sh *shape) (out slot, err error) {
	before, err := cpuTime(s.pids)
	if err != nil {
		return out, err
	}
	h, err := b.hold(ctx, s.peerArgs(sh.scene.peers)...)
	if err != nil {
		return out, err
	}
	defer h.stop()
	last := b.window(time.Duration(b.seconds) * time.Second)
	time.Sleep(last)
	held, err := h.result()
	if err != nil {
		return out, err
	}
	after, err := cpuTime(s.pids)
	if err != nil {
		return out, err
	}
	if held.Done == 0 || held.Failed > 0 {
		return out, fmt.Errorf("%d handshakes were made, %d failed: %s", held.Done, held.Failed, h.said())
	}
	n := float64(held.Done)
	return slot{CPU: float64(after-before) / float64(time.Microsecond) / n, RPS: n / last.Seconds(), RSS: rss(s.pids), Handshakes: n}, nil
}

// window is how long something is watched, less where time is short.
func (b *bench) window(of time.Duration) time.Duration {
	if b.seconds < 2 {
		return of / 2
	}
	return of
}

// holding is a process that holds.
type holding struct{ *job }

// hold starts one and waits until it is ready. Load and backend go before it.
func (b *bench) hold(ctx context.Context, args ...string) (*holding, error) {
	cmd := append([]string{b.self, "hold"}, args...)
	switch {
	case !slices.Contains(args, "handshakes"): // what holds and does little more
		cmd = b.first(cmd)
	case !b.hurry:
		cmd = append([]string{"nice", "-n", "10"}, cmd...)
	}
	j, err := spawn(b.dir, "hold", loadCPU, cmd...)
	if err != nil {
		return nil, err
	}
	h := &holding{j}
	if err := j.awaitFor(ctx, time.Minute, "ready", func() bool { return strings.HasPrefix(j.said(), "ready") || strings.Contains(j.said(), "\nready") }); err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

// result ends it and reads what it says.
func (h *holding) result() (*heldResult, error) {
	_ = h.stdin.Close()
	select {
	case <-h.done:
	case <-time.After(30 * time.Second):
		return nil, fmt.Errorf("it did not end: %s", h.said())
	}
	text := h.said()
	r := &heldResult{}
	if err := json.Unmarshal([]byte(text[strings.LastIndexByte(strings.TrimSpace(text), '\n')+1:]), r); err != nil {
		return nil, fmt.Errorf("it said: %s", text)
	}
	return r, nil
}
