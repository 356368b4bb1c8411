package proxy

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/tulle-mesh/tulle/internal/proxy/agent"
	"github.com/tulle-mesh/tulle/internal/proxy/kube"
	"github.com/tulle-mesh/tulle/internal/proxy/kube/capture"
)

const usage = `tulle-proxy is Tulle's data plane; tulle run, tulle up and the injector start it.

usage: tulle-proxy --bootstrap FILE
       tulle-proxy sidecar | gateway         in a pod: what there is to know is in the environment
       tulle-proxy redirect [FLAGS]          in a pod's init container: send its traffic to the sidecar
       tulle-proxy wait                      until the proxy of this pod is ready
       tulle-proxy request METHOD PATH       of the proxy of this pod
       tulle-proxy iptables -t nat -L        what is redirected in this pod; also by the name iptables
`

// Main is the program: it returns the exit code. name is the one that it was
// called by.
func Main(name string, args []string, stdout, stderr io.Writer) int {
	if capture.Called(name) {
		return capture.IPTables(name, args, stdout, stderr)
	}
	if len(args) == 0 {
		return serveFile(args, stderr)
	}
	switch rest := args[1:]; {
	case args[0] == "agent":
		return agent.Main(rest, stderr)
	case args[0] == "sidecar":
		return servePod(false, rest, stderr)
	case args[0] == "gateway":
		return servePod(true, rest, stderr)
	case args[0] == "redirect":
		return capture.Redirect(rest, stdout, stderr)
	case args[0] == "wait":
		return kube.Wait(rest, stderr)
	case args[0] == "request":
		return kube.Request(rest, stdout, stderr)
	case capture.Called(args[0]):
		return capture.IPTables(args[0], rest, stdout, stderr)
	case args[0] == "proxy" && len(rest) > 0 && (rest[0] == "sidecar" || rest[0] == "router"): // Istio's words
		return servePod(rest[0] == "router", rest[1:], stderr)
	}
	return serveFile(args, stderr)
}

// serveFile runs a proxy that a bootstrap file describes.
func serveFile(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("tulle-proxy", flag.ContinueOnError)
	fs.SetOutput(stderr)
	file := fs.String("bootstrap", "", "bootstrap file (JSON)")
	drain := fs.Duration("drain", 0, "how long requests may take to end after SIGTERM (default: the bootstrap's, else 5s); a second signal ends at once")
	accept := fs.Duration("drain-accept", 0, "for how long of that new connections are still taken (default: the bootstrap's, else none)")
	restart := fs.String("restart-socket", "", "unix socket at which a new process takes over from the running one (default: the bootstrap's)")
	level := fs.String("log-level", "info", "debug, info, warn or error; messages go to standard error")
	fs.Usage = func() {
		fmt.Fprint(stderr, usage, "\n")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if *file == "" || fs.NArg() > 0 {
		fs.Usage()
		return 2
	}
	var lv slog.Level
	if err := lv.UnmarshalText([]byte(*level)); err != nil {
		fmt.Fprintf(stderr, "tulle-proxy: --log-level %s: want debug, info, warn or error\n", *level)
		return 2
	}
	boot, err := ReadBootstrap(*file)
	if err != nil {
		fmt.Fprintln(stderr, "tulle-proxy:", err)
		return 2
	}
	boot.Drain, boot.DrainAccept = cmp.Or(Duration(*drain), boot.Drain), cmp.Or(Duration(*accept), boot.DrainAccept)
	boot.RestartSocket = cmp.Or(*restart, boot.RestartSocket)
	return serve(boot, lv, stderr)
}

// servePod runs the proxy of a pod. Flags of Istio's agent that say what the
// environment says too are taken and mean nothing.
func servePod(gateway bool, args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("tulle-proxy sidecar", flag.ContinueOnError)
	fs.SetOutput(stderr)
	for _, n := range []string{"domain", "proxyLogLevel", "proxyComponentLogLevel", "log_output_level", "concurrency", "serviceCluster"} {
		fs.String(n, "", "taken for pilot-agent's sake; changes nothing")
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	pod, err := kube.FromEnvironment(gateway, os.Getenv)
	if err == nil {
		err = pod.ReadInfo()
	}
	if err != nil || fs.NArg() > 0 {
		if err == nil {
			err = fmt.Errorf("what is %q?", fs.Arg(0))
		}
		fmt.Fprintln(stderr, "tulle-proxy:", err)
		return 2
	}
	if pod.Memory > 0 { // the rest is for what the collector does not see
		debug.SetMemoryLimit(pod.Memory / 10 * 8)
	}
	return serve(podBootstrap(pod), pod.LogLevel, stderr)
}

func serve(boot *Bootstrap, level slog.Level, stderr io.Writer) int {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	context.AfterFunc(ctx, cancel) // a second signal ends it at once
	said := newMessages(stderr)
	defer said.close()
	log := slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: level}))
	if err := Run(ctx, boot, log); err != nil {
		said.close()
		fmt.Fprintln(stderr, "tulle-proxy:", err)
		return 1
	}
	return 0
}
