package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Bounds of a scrape of the program.
const (
	maxMetrics     = 32 << 20
	defaultScrape  = 10 * time.Second
	longestScrape  = 2 * time.Minute
	plainTextAsked = "text/plain;version=0.0.4;charset=utf-8"
)

// Scrape is where the program has its own metrics, as the annotations said
// before Prometheus was sent to us.
type Scrape struct {
	port uint16
	path string
}

// parseScrape returns nil for a program that is not to be scraped.
func parseScrape(text string) (*Scrape, error) {
	var a struct{ Scrape, Path, Port string }
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return nil, err
	}
	if a.Scrape != "true" {
		return nil, nil
	}
	s := &Scrape{port: 80, path: a.Path}
	if a.Path == "" {
		s.path = "/metrics"
	}
	if !strings.HasPrefix(s.path, "/") {
		s.path = "/" + s.path
	}
	if a.Port != "" {
		n, err := strconv.ParseUint(a.Port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("port %q is no number", a.Port)
		}
		s.port = uint16(n)
	}
	if s.port == StatusPort {
		return nil, fmt.Errorf("port %d is the sidecar's own", s.port)
	}
	return s, nil
}

// Get returns the program's metrics as Prometheus text. header is that of the
// scrape that we answer.
func (s *Scrape) Get(ctx context.Context, header []Field) ([]byte, error) {
	limit := defaultScrape
	q := question{path: s.path, limit: maxMetrics, header: []Field{{"accept", plainTextAsked}}}
	for _, f := range header {
		switch {
		case f.Name == "x-prometheus-scrape-timeout-seconds":
			if v, err := strconv.ParseFloat(f.Value, 64); err == nil && v > 0 && v < longestScrape.Seconds() {
				limit = time.Duration(v * float64(time.Second))
			}
			fallthrough
		case f.Name == "user-agent", f.Name == "authorization":
			q.header = append(q.header, f)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var a *answer
	var err error
	for _, host := range []string{"127.0.0.1", "::1"} {
		q.address = net.JoinHostPort(host, strconv.Itoa(int(s.port)))
		if a, err = ask(ctx, &q); err == nil || ctx.Err() != nil {
			break
		}
	}
	switch {
	case err != nil:
		return nil, err
	case a.status != 200:
		return nil, fmt.Errorf("%s answers %d", q.path, a.status)
	case a.cut:
		return nil, fmt.Errorf("more than %d bytes", maxMetrics)
	}
	// The end of OpenMetrics would be an error in the middle of the text.
	body := bytes.TrimRight(a.body, "\n")
	body = bytes.TrimSuffix(body, []byte("# EOF"))
	if len(body) > 0 && body[len(body)-1] != '\n' {
		body = append(body, '\n')
	}
	return body, nil
}

// Ours leaves of the proxy's metrics those that no program has: where both have
// one of a name, Prometheus would drop one or refuse all.
func Ours(text []byte) []byte {
	out := text[:0:0]
	for line := range bytes.Lines(text) {
		name := line
		if rest, ok := bytes.CutPrefix(line, []byte("# ")); ok { // HELP or TYPE
			_, name, _ = bytes.Cut(rest, []byte(" "))
		}
		for _, p := range []string{"istio_", "envoy_", "tulle_"} {
			if bytes.HasPrefix(name, []byte(p)) {
				out = append(out, line...)
				break
			}
		}
	}
	return out
}
