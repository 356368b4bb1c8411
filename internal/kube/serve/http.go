package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"
)

// serve HTTP until ctx ends; what is under way may end.
func (r *running) serve(ctx context.Context, l net.Listener, h http.Handler, secure bool) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10, ErrorLog: log.New(quiet{}, "", 0),
	}
	if secure {
		s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: r.plane.Certificate}
		l = tls.NewListener(l, s.TLSConfig)
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close()
		}
	})
	err := s.Serve(l)
	if !stop() {
		<-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// quiet drops what net/http says about single connections: anybody can make it
// say something.
type quiet struct{}

func (quiet) Write(b []byte) (int, error) { return len(b), nil }

// health tells whether proxies and pods may be sent here.
func (r *running) health() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if why := r.notReady(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
		}
	})
	m.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	return m
}

// notReady says why nobody should be sent here; empty: they may.
func (r *running) notReady() string {
	if version, _, _ := r.plane.Changed(); version == "" {
		return "the cluster has not been read yet"
	}
	if !r.cluster.Read() {
		return "the settings of injection have not been read yet"
	}
	return ""
}

// metrics in Prometheus' text form, for anybody.
func (r *running) metrics() http.Handler {
	m := http.NewServeMux()
	text := func(w http.ResponseWriter, q *http.Request) {
		r.admin.Metrics(w, q)
		fmt.Fprint(w, r.handler.Counts())
		fmt.Fprintf(w, "# HELP istio_build The program.\n# TYPE istio_build gauge\nistio_build{component=\"pilot\",tag=%q} 1\n", r.Version)
	}
	m.HandleFunc("GET /metrics", text)
	m.HandleFunc("GET /stats/prometheus", text)
	m.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, r.Version) })
	return m
}
