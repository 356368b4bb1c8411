// Command app is the program in the pods of the end-to-end tests.
//
// In: "serve ADDRESS", which answers every request with a line about itself, or
// "get URL [COUNT]", which asks that often, each time on a new connection. Out:
// the answers. Nothing about a mesh belongs here: it is what a user's program is.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 2 && args[0] == "get":
		return get(args[1], 1)
	case len(args) == 3 && args[0] == "get":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return get(args[1], n)
	}
	return errors.New("want serve ADDRESS or get URL [COUNT]")
}

// serve until SIGTERM. The answer is POD, NODE and the caller's address.
func serve(address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var asked atomic.Int64
	s := &http.Server{Addr: address, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/metrics" {
			fmt.Fprintf(w, "# TYPE app_requests_total counter\napp_requests_total %d\n", asked.Load())
			return
		}
		fmt.Fprintln(w, os.Getenv("POD"), os.Getenv("NODE"), r.RemoteAddr)
		if r.URL.Path != "/healthz" {
			fmt.Println(r.Method, r.Host, r.URL.Path)
		}
	})}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stopped <- s.Shutdown(context.Background())
	}()
	fmt.Println("serving", address)
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func get(url string, count int) error {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range count {
		r, err := client.Get(url)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return err
		}
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", r.Status, b)
		}
		fmt.Printf("%s", b)
	}
	return nil
}
