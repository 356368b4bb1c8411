package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// App is one program of the shop. It knows nothing of the mesh: it listens
// where it is told, and calls others by their service names through the usual
// proxy variables.
type App struct {
	Name    string // users, products, ...
	Version string
	Listen  string // host:port
	Ledger  string // where the ledger is reached
	client  *http.Client
}

// calls says which services each one asks before it answers.
var calls = map[string][]string{
	"products":        {"reviews", "recommendations"},
	"orders":          {"users", "payments"},
	"recommendations": {"users"},
}

// forwarded are the headers that a program passes on, so that one request can
// be followed through the shop.
var forwarded = []string{"x-request-id", "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid",
	"x-b3-parentspanid", "x-b3-sampled", "x-b3-flags", "x-gray", "x-demo-fault"}

// answer is what every program replies.
type answer struct {
	Service string   `json:"service"`
	Version string   `json:"version"`
	Path    string   `json:"path"`
	Caller  string   `json:"caller,omitempty"` // x-forwarded-client-cert, as the mesh attests it
	Ledger  string   `json:"ledger,omitempty"`
	Calls   []result `json:"calls,omitempty"`
}

// result of a call to another service.
type result struct {
	To     string `json:"to"`
	Status int    `json:"status"`
	Text   string `json:"text,omitempty"`
	Caller string `json:"caller,omitempty"` // who the other one saw
	Ledger string `json:"ledger,omitempty"` // what it heard from the ledger
}

// Serve runs the program until ctx ends.
func (a *App) Serve(ctx context.Context) error {
	l, err := net.Listen("tcp", a.Listen)
	if err != nil {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	if a.Name == "ledger" {
		return a.serveLedger(ctx, l)
	}
	a.client = &http.Client{Timeout: 5 * time.Second}
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ready\n") })
	mux.HandleFunc("/", a.handle)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = s.Shutdown(stop)
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	return nil
}

func (a *App) handle(w http.ResponseWriter, r *http.Request) {
	out := answer{Service: a.Name, Version: a.Version, Path: r.URL.Path, Caller: caller(r.Header)}
	targets := calls[a.Name]
	if to := r.URL.Query().Get("call"); to != "" {
		targets = []string{to}
	}
	for _, to := range targets {
		out.Calls = append(out.Calls, a.call(r, to))
	}
	if a.Name == "payments" || r.URL.Query().Has("ledger") {
		out.Ledger = a.askLedger()
	}
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

// caller is the identity in the last element of x-forwarded-client-cert.
func caller(h http.Header) string {
	v := h.Get("x-forwarded-client-cert")
	_, uri, ok := strings.Cut(v[strings.LastIndex(v, ",")+1:], "URI=")
	if !ok {
		return ""
	}
	uri, _, _ = strings.Cut(uri, ";")
	return uri
}

func (a *App) call(r *http.Request, to string) result {
	u := url.URL{Scheme: "http", Host: to, Path: "/api/" + to}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, u.String(), nil)
	if err != nil {
		return result{To: to, Text: err.Error()}
	}
	for _, h := range forwarded {
		if v := r.Header.Get(h); v != "" {
			req.Header.Set(h, v)
		}
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return result{To: to, Text: err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return result{To: to, Status: resp.StatusCode, Text: err.Error()}
	}
	out := result{To: to, Status: resp.StatusCode}
	var inner answer
	if json.Unmarshal(b, &inner) == nil && inner.Service != "" {
		out.Text, out.Caller, out.Ledger = inner.Service+" "+inner.Version, inner.Caller, inner.Ledger
	} else {
		out.Text = strings.TrimSpace(string(b))
	}
	return out
}

// askLedger speaks the ledger's line protocol.
func (a *App) askLedger() string {
	c, err := net.DialTimeout("tcp", a.Ledger, 2*time.Second)
	if err != nil {
		return "refused: " + err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "BALANCE\n"); err != nil {
		return "refused: " + err.Error()
	}
	line, err := bufio.NewReader(io.LimitReader(c, 1024)).ReadString('\n')
	if err != nil {
		return "refused: " + err.Error()
	}
	return strings.TrimSpace(line)
}

// serveLedger answers one line per line, like a small database.
func (a *App) serveLedger(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("ledger: %w", err)
		}
		go func() {
			defer c.Close()
			in := bufio.NewScanner(io.LimitReader(c, 1<<20))
			for in.Scan() {
				if in.Text() == "BALANCE" {
					fmt.Fprintln(c, "balance 1337")
				} else {
					fmt.Fprintln(c, "error unknown command")
				}
			}
		}()
	}
}
