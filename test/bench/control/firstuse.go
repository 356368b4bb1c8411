package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	tulle "github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/listen"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// firstUse is what the first request to a destination takes more than the second,
// each on a connection of its own, through a sidecar that looks it up.
type firstUse struct {
	Uses int     `json:"uses"`
	P50  float64 `json:"addedP50Milliseconds"`
	P99  float64 `json:"addedP99Milliseconds"`
	Next float64 `json:"nextP50Milliseconds"` // of the second
}

// loops of the sidecar.
const loops = 2

// side is a sidecar in this process. What it captures is told to it, and all that
// it dials ends at one backend.
type side struct {
	mu   sync.Mutex
	out  string
	from map[uint16]netip.AddrPort // where connections were going, by their source port
	to   netip.AddrPort
}

func (b *bench) firstUse(ctx context.Context) (*firstUse, error) {
	const services = 1000
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(loops + 1)) // as tulle-proxy does
	c, err := b.spawn(ctx, dir, size{Services: services, Proxies: 1})
	if err != nil {
		return nil, err
	}
	defer c.end()
	s, end, err := sidecar(dir, &c.hello)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := settle(c); err != nil {
		return nil, err
	}
	if b.profile != "" {
		if _, err := c.tell("profile %s", b.profile); err != nil {
			return nil, err
		}
	}
	var added, next []float64
	for i := range services / 2 {
		var took [2]float64
		for n := range took {
			start := time.Now()
			if err := s.get(netip.AddrPortFrom(netip.MustParseAddr(addrOf(i)), 80), hostOf(i)); err != nil {
				return nil, fmt.Errorf("%s: %w", hostOf(i), err)
			}
			took[n] = time.Since(start).Seconds() * 1000
		}
		added, next = append(added, took[0]-took[1]), append(next, took[1])
	}
	if b.profile != "" {
		if _, err := c.tell("profile"); err != nil {
			return nil, err
		}
	}
	slices.Sort(added)
	slices.Sort(next)
	n := len(added)
	return &firstUse{Uses: n, P50: added[n/2], P99: added[n*99/100], Next: next[n/2]}, nil
}

// sidecar starts one and waits until connections are captured.
func sidecar(dir string, h *hello) (s *side, end func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })}
	go func() { _ = web.Serve(l) }()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(h.Tokens[0]), 0o600); err != nil {
		return nil, nil, err
	}
	ns, name, _ := strings.Cut(h.Names[0], "/")
	s = &side{from: map[uint16]netip.AddrPort{}, to: netip.MustParseAddrPort(l.Addr().String())}
	f, err := tulle.NewFed(&tulle.Bootstrap{ID: name, Workload: tulle.Workload{Name: name, Namespace: ns}, XDS: "unix://" + h.Socket, TokenFile: token, Concurrency: loops, OnDemand: true},
		slog.New(slog.DiscardHandler), &tulle.Place{Open: s.open, Original: s.original, Dial: s.dial})
	if err != nil {
		return nil, nil, err
	}
	end = func() { _ = f.Close(); _ = web.Close() }
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		out := s.out
		s.mu.Unlock()
		if out != "" && len(f.Addresses()) > 0 && len(f.Snapshot().Listeners) > 0 {
			return s, end, nil
		}
		if time.Now().After(until) {
			end()
			return nil, nil, errors.New("the sidecar does not get ready")
		}
	}
}

// open opens another port than the one that is wanted.
func (s *side) open(at netip.AddrPort) (int, error) {
	fd, err := listen.Open(netip.MustParseAddrPort("127.0.0.1:0"))
	if err == nil && at.Port() == 15001 {
		s.mu.Lock()
		s.out = loop.LocalAddr(fd).String()
		s.mu.Unlock()
	}
	return fd, err
}

func (s *side) original(fd int, _ netip.AddrPort) netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from[loop.RemoteAddr(fd).Port()]
}

func (s *side) dial(l *loop.Loop, _ *conf.Cluster, _ *cluster.Endpoint, o loop.DialOptions) (*loop.Conn, error) {
	return l.Dial(s.to, o)
}

// get makes one request on a connection that goes to an address.
func (s *side) get(to netip.AddrPort, host string) error {
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			if err = unix.Bind(int(fd), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err == nil {
				s.mu.Lock()
				s.from[loop.LocalAddr(int(fd)).Port()] = to
				s.mu.Unlock()
			}
		}), err)
	}}
	c, err := d.Dial("tcp", s.out)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nhost: %s\r\n\r\n", host); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}
