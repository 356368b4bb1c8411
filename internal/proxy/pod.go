package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/kube"
	"github.com/tulle-mesh/tulle/internal/proxy/listen"
)

// untilIdle is as long as a pod that waits for its connections will wait; the
// kubelet's patience ends before.
const untilIdle = 24 * time.Hour

// podBootstrap is the bootstrap of a proxy in a pod.
func podBootstrap(pod *kube.Pod) *Bootstrap {
	l := pod.Labels
	b := &Bootstrap{
		ID: pod.ID(), Pod: pod, XDS: pod.Discovery, TokenFile: kube.TokenFile, CAFile: kube.RootsFile,
		Admin:       net.JoinHostPort("127.0.0.1", strconv.Itoa(kube.AdminPort)),
		Concurrency: pod.Concurrency, OnDemand: pod.OnDemand, Runtime: pod.Runtime,
		Workload: Workload{
			Name: pod.Workload, Namespace: pod.Namespace, Account: pod.Account, Cluster: pod.Cluster, Gateway: pod.Gateway,
			App: first(l, "app", "app.kubernetes.io/name"), Version: first(l, "version", "app.kubernetes.io/version"),
			Canonical: first(l, "service.istio.io/canonical-name"), Revision: first(l, "service.istio.io/canonical-revision"),
		},
		// Peers learn one after the other that the pod is going: until nearly the
		// end new connections are taken. The last fifth is for what they ask.
		Drain: Duration(pod.Drain), DrainAccept: Duration(pod.Drain * 4 / 5),
	}
	if pod.UntilIdle {
		b.Drain, b.DrainAccept = Duration(untilIdle), Duration(pod.Drain)
	}
	if b.Drain == 0 {
		b.Drain = Duration(time.Millisecond) // 0 would be the default
	}
	for _, x := range []struct {
		path string
		to   *string
	}{{kube.StateDir, &b.StateDir}, {kube.SecretDir, &b.SecretDir}} {
		if unix.Access(x.path, unix.W_OK) == nil { // without the volume nothing is kept
			*x.to = x.path
		}
	}
	return b
}

func first(labels map[string]string, keys ...string) string {
	for _, k := range keys {
		if labels[k] != "" {
			return labels[k]
		}
	}
	return ""
}

// hold opens the ports that connections are redirected to: until the proxy is
// ready they wait, where they would be refused.
func (p *Proxy) hold() error {
	for _, port := range []uint16{kube.OutboundPort, kube.InboundPort} {
		for _, host := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			at := netip.AddrPortFrom(host, port)
			fd, err := listen.Open(at)
			if err != nil && host.Is6() && !errors.Is(err, listen.ErrInUse) {
				continue // there is no IPv6
			}
			if err != nil {
				return err
			}
			p.sockets.Inherit(at.String(), fd)
		}
	}
	go func() {
		select {
		case <-p.served:
			p.sockets.Forget()
		case <-p.unfed:
		}
	}()
	return nil
}

// servePod opens the ports at which the kubelet and Prometheus ask, on all
// addresses.
func (p *Proxy) servePod() error {
	ready := map[string]page{"GET /healthz/ready": p.readyPage}
	stats := map[string]page{"GET /stats/prometheus": p.statsPage}
	for _, x := range []struct {
		port  uint16
		visit visit
	}{{kube.HealthPort, p.visitPages(ready)}, {kube.MetricsPort, p.visitPages(stats)}, {kube.StatusPort, p.visitStatus}} {
		for _, host := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			at := netip.AddrPortFrom(host, x.port)
			fd, err := listen.Open(at)
			if err != nil && host.Is6() && !errors.Is(err, listen.ErrInUse) {
				continue // there is no IPv6
			}
			if err != nil {
				return err
			}
			d, err := p.openDoor(fd, at.String(), x.visit)
			if err != nil {
				return fmt.Errorf("listen on %s: %w", at, err)
			}
			p.mu.Lock()
			p.podDoors = append(p.podDoors, d)
			p.mu.Unlock()
		}
	}
	return nil
}

// visitStatus is the port that the injector points probes and scrapes at.
func (p *Proxy) visitStatus(r *asked, w *bytes.Buffer) (int, string) {
	switch {
	case strings.HasPrefix(r.path, "/app-health/"):
		status, why := p.boot.Pod.Answer(context.Background(), r.path, r.header)
		if why != "" {
			p.log.Debug("a probe failed", "path", r.path, "reason", why)
			w.WriteString(why + "\n")
		}
		return status, "text/plain"
	case r.path == "/healthz/ready" && r.method == "GET":
		return p.gated(w, func() (int, string) { return p.readyPage(w, r.query) })
	case r.path == "/stats/prometheus" && r.method == "GET":
		return p.mergedStats(r, w)
	case r.path == "/quitquitquit" || r.path == "/drain":
		return p.order(r, w)
	}
	w.WriteString("no such page; there are:\n  GET /app-health/CONTAINER/PROBE\n  GET /healthz/ready\n  GET /stats/prometheus\n" +
		"  POST /drain\n  POST /quitquitquit\n")
	return 404, "text/plain"
}

// order takes what only the pod's own programs may say.
func (p *Proxy) order(r *asked, w *bytes.Buffer) (int, string) {
	here := r.from.Addr().Unmap()
	switch {
	case here != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && here != netip.IPv6Loopback():
		w.WriteString("only programs of this pod may say that\n")
		return 403, "text/plain"
	case r.method != "POST":
		w.WriteString("want POST\n")
		return 405, "text/plain"
	case r.path == "/drain":
		return p.gracePage(w, r.query)
	}
	return p.quitPage(w, r.query)
}

// mergedStats is the proxy's metrics, and then the program's own.
func (p *Proxy) mergedStats(r *asked, w *bytes.Buffer) (int, string) {
	var own bytes.Buffer
	status, kind := p.gated(&own, func() (int, string) { return p.statsPage(&own, r.query) })
	if status != 200 {
		w.Write(own.Bytes())
		return status, kind
	}
	s := p.boot.Pod.Scrape
	if s == nil {
		w.Write(own.Bytes())
		return status, kind
	}
	theirs, err := s.Get(context.Background(), r.header)
	if err != nil {
		p.unscraped.Add(1)
		p.log.Warn("the program's metrics cannot be had", "error", err)
	}
	w.Write(kube.Ours(own.Bytes()))
	fmt.Fprintf(w, "# HELP istio_agent_scrape_failures_total Scrapes of the program's own metrics that failed.\n"+
		"# TYPE istio_agent_scrape_failures_total counter\nistio_agent_scrape_failures_total{type=\"application\"} %d\n", p.unscraped.Load())
	w.Write(theirs)
	return status, kind
}
