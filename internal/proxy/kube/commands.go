package kube

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Wait is `tulle-proxy wait`: it returns 0 when the proxy of this pod is ready,
// 1 when it is not in time. The flags are those of Istio's agent.
func Wait(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("tulle-proxy wait", flag.ContinueOnError)
	fs.SetOutput(stderr)
	limit := fs.Int("timeoutSeconds", 60, "how long to wait")
	each := fs.Int("requestTimeoutMillis", 500, "how long one request may take")
	period := fs.Int("periodMillis", 100, "time between two requests")
	at := fs.String("url", fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", HealthPort), "what to ask")
	if code, ok := parsed(fs, args, 0); !ok {
		return code
	}
	u, err := url.Parse(*at)
	if err != nil || u.Scheme != "http" || u.Host == "" || *limit <= 0 || *each <= 0 || *period <= 0 {
		fmt.Fprintf(stderr, "tulle-proxy wait: --url %q: want http://HOST:PORT/PATH, and times above 0\n", *at)
		return 2
	}
	host := u.Hostname()
	if host == "localhost" {
		host = "127.0.0.1" // no question to a resolver that may be us
	}
	n := u.Port()
	if n == "" {
		n = "80"
	}
	q := question{address: net.JoinHostPort(host, n), authority: u.Host, path: u.RequestURI(), limit: probeBody}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(*limit)*time.Second)
	defer cancel()
	said := "nothing was asked"
	for {
		one, done := context.WithTimeout(ctx, time.Duration(*each)*time.Millisecond)
		a, err := ask(one, &q)
		done()
		switch {
		case err == nil && a.status == 200:
			return 0
		case err == nil:
			said = fmt.Sprintf("%d %s", a.status, strings.TrimSpace(string(a.body)))
		case ctx.Err() == nil:
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			fmt.Fprintf(stderr, "tulle-proxy wait: not ready after %d s: %s\n", *limit, said)
			return 1
		case <-time.After(time.Duration(*period) * time.Millisecond):
		}
	}
}

// Request is `tulle-proxy request METHOD PATH`: it asks the admin pages of the
// proxy of this pod, where there is no other tool.
func Request(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("tulle-proxy request", flag.ContinueOnError)
	fs.SetOutput(stderr)
	n := fs.Int("debug-port", AdminPort, "port on loopback")
	if code, ok := parsed(fs, args, 2); !ok {
		return code
	}
	q := question{method: strings.ToUpper(fs.Arg(0)), address: net.JoinHostPort("127.0.0.1", strconv.Itoa(*n)),
		path: "/" + strings.TrimPrefix(fs.Arg(1), "/"), limit: maxMetrics}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, err := ask(ctx, &q)
	if err != nil {
		fmt.Fprintln(stderr, "tulle-proxy request:", err)
		return 1
	}
	_, _ = stdout.Write(a.body)
	if a.status >= 400 {
		fmt.Fprintf(stderr, "tulle-proxy request: status %d\n", a.status)
		return 1
	}
	return 0
}

// parsed reads flags; with want arguments behind them. ok is false when the
// program ends with code.
func parsed(fs *flag.FlagSet, args []string, want int) (code int, ok bool) {
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0, false
	case err != nil:
		return 2, false
	case fs.NArg() != want:
		fmt.Fprintf(fs.Output(), "%s: %d arguments, want %d\n", fs.Name(), fs.NArg(), want)
		fs.Usage()
		return 2, false
	}
	return 0, true
}
