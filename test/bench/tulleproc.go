package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tulleBootstrap is what a tulle-proxy was started with.
type tulleBootstrap struct {
	ID          string         `json:"id"`
	Workload    map[string]any `json:"workload"`
	XDS         string         `json:"xds"`
	SecretDir   string         `json:"secretDir,omitempty"`
	Admin       string         `json:"admin"`
	Concurrency int            `json:"concurrency"`
}

func bootstrapOf(pid int) (*tulleBootstrap, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, err
	}
	_, file, _ := bytes.Cut(b, []byte("\x00--bootstrap\x00"))
	file, _, _ = bytes.Cut(file, []byte{0})
	if b, err = os.ReadFile(string(file)); err != nil {
		return nil, err
	}
	out := &tulleBootstrap{}
	return out, json.Unmarshal(b, out)
}

// tulleIdentity copies the certificate of a sidecar: what a peer would show.
func tulleIdentity(p *plan, pid int) (c certificate, err error) {
	boot, err := bootstrapOf(pid)
	if err != nil {
		return c, err
	}
	b, err := os.ReadFile(filepath.Join(boot.SecretDir, "identity.pem"))
	if err != nil {
		return c, err
	}
	b, _, _ = bytes.Cut(b, []byte("# root\n"))
	file, err := p.write("peer.pem", string(b))
	return certificate{file, file, file}, err
}

// tulleAdmin finds the counters of allocations and of the loops' rounds.
func (r *running) tulleAdmin() error {
	var all []string
	for _, pid := range r.pids {
		b, err := bootstrapOf(pid)
		if err != nil {
			return err
		}
		all = append(all, strings.TrimPrefix(b.Admin, "unix://"))
	}
	each := func(add func(metrics string) error) error {
		for _, socket := range all {
			text, err := scrape(socket)
			if err != nil {
				return err
			}
			if err := add(text); err != nil {
				return err
			}
		}
		return nil
	}
	r.allocs = func() (sum float64, err error) {
		err = each(func(text string) error {
			n, err := allocated(text)
			sum += n
			return err
		})
		return sum, err
	}
	r.rounds = func() (map[float64]float64, error) {
		sum := map[float64]float64{}
		return sum, each(func(text string) error { return addRounds(sum, text) })
	}
	return nil
}

// scrape reads a proxy's metrics.
func scrape(socket string) (string, error) {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}
	resp, err := c.Get("http://proxy/stats/prometheus")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

const (
	allocsMetric = "go_gc_heap_allocs_objects_total"
	roundsMetric = "tulle_proxy_loop_round_seconds"
)

// allocated finds the counter of allocated objects.
func allocated(metrics string) (float64, error) {
	_, v, ok := strings.Cut(metrics, "\n"+allocsMetric+" ")
	if !ok {
		return 0, errors.New("its metrics have no " + allocsMetric)
	}
	v, _, _ = strings.Cut(v, "\n")
	return strconv.ParseFloat(v, 64)
}

// addRounds adds how many rounds took at most each time.
func addRounds(sum map[float64]float64, metrics string) error {
	found := false
	for l := range strings.Lines(metrics) {
		l, ok := strings.CutPrefix(l, roundsMetric+"_bucket{le=\"")
		if !ok {
			continue
		}
		le, n, _ := strings.Cut(strings.TrimSpace(l), "\"} ")
		bound, err := strconv.ParseFloat(le, 64)
		if err != nil {
			return err
		}
		count, err := strconv.ParseFloat(n, 64)
		if err != nil {
			return err
		}
		sum[bound] += count
		found = true
	}
	if !found {
		return errors.New("its metrics have no " + roundsMetric)
	}
	return nil
}

// tulleFed runs a proxy alone on our own control plane, with what Tulle's would
// give it.
func (r *running) tulleFed(ctx context.Context, p *plan, mesh string) error {
	out, err := exec.CommandContext(ctx, p.tulle, "translate", "-f", mesh, "--gateway", "bench/bench", "-o", "xds").Output()
	if err != nil {
		return fmt.Errorf("translate: %w", err)
	}
	base, err := resourcesOf(out)
	if err != nil {
		return fmt.Errorf("translate: %w", err)
	}
	socket, err := r.feed("bench", base...)
	if err != nil {
		return err
	}
	boot, err := json.Marshal(&tulleBootstrap{ID: "bench", Workload: map[string]any{"name": "bench", "namespace": "bench", "gateway": true},
		XDS: "unix://" + socket, Admin: "unix://" + filepath.Join(filepath.Dir(socket), "admin"), Concurrency: p.loops()})
	if err != nil {
		return err
	}
	file, err := p.write("bootstrap.json", string(boot))
	if err != nil {
		return err
	}
	j, err := spawn(p.dir, "proxy", p.cpus(), filepath.Join(filepath.Dir(p.tulle), "tulle-proxy"), "--bootstrap", file)
	if err != nil {
		return err
	}
	r.jobs = append(r.jobs, j)
	if err := j.listening(ctx, r.addr); err != nil {
		return err
	}
	r.pids = []int{j.pid()} // taskset has become the proxy
	return r.tulleAdmin()
}
