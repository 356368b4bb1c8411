package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/source"
)

// usage is what the control plane's process has used so far.
type usage struct {
	CPU    float64 `json:"cpu"`  // seconds
	PeakMB float64 `json:"peak"` // resident, MiB
	LiveMB float64 `json:"live"` // of the heap after a collection, MiB
}

// hello is what the process says first.
type hello struct {
	Socket  string
	Address string   // where the same is served over TLS
	Roots   []byte   // of its certificate, in PEM
	Names   []string // of the workloads
	Tokens  []string
}

// plane is the control plane's process: commands come line by line, an answer
// for each.
func plane(ctx context.Context, dir string, services, proxies int, in io.Reader, out io.Writer) error {
	w := newWorld(services)
	p, err := control.New(control.Options{Dir: dir, Source: w, Version: "bench", Log: func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	defer func() { cancel(); <-done }()
	w.emit <- source.Snapshot{Objects: w.objects}
	if err := changed(ctx, p, ""); err != nil {
		return err
	}
	say := json.NewEncoder(out)
	h := hello{Socket: p.Socket(), Address: p.Address(), Roots: p.Roots()}
	for i := range proxies {
		reg, err := p.Register(control.WorkloadSpec{Namespace: nsOf(i), Name: fmt.Sprint("w", i), Redirected: true}, nil)
		if err != nil {
			return err
		}
		h.Names, h.Tokens = append(h.Names, reg.Namespace+"/"+reg.Name), append(h.Tokens, reg.Token)
	}
	if err := say.Encode(h); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var what, path string
		var s, n int
		_, _ = fmt.Sscan(strings.ReplaceAll(lines.Text(), "-", "0"), &what, &s, &n)
		switch what {
		case "endpoint":
			w.endpoint(s, n)
		case "route":
			w.route(s)
		case "profile":
			_, path, _ = strings.Cut(lines.Text(), " ")
			if err := profile(path); err != nil {
				return err
			}
		}
		if err := say.Encode(used(what == "rest")); err != nil {
			return err
		}
	}
	return lines.Err()
}

// profiling is the file of a CPU profile under way.
var profiling *os.File

// profile begins a CPU profile, or ends it when path is empty.
func profile(path string) (err error) {
	if profiling != nil {
		pprof.StopCPUProfile()
		if heap, herr := os.Create(profiling.Name() + ".heap"); herr == nil {
			runtime.GC()
			_ = pprof.Lookup("allocs").WriteTo(heap, 0)
			_ = heap.Close()
		}
		err = profiling.Close()
		profiling = nil
	}
	if path != "" && err == nil {
		if profiling, err = os.Create(path); err == nil {
			err = pprof.StartCPUProfile(profiling)
		}
	}
	return err
}

// used is what this process has used; rest: collected before.
func used(rest bool) usage {
	var u usage
	if rest {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		u.LiveMB = float64(m.HeapAlloc) / (1 << 20)
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err == nil {
		u.CPU = time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
		u.PeakMB = float64(r.Maxrss) / 1024
	}
	return u
}

func changed(ctx context.Context, p *control.Plane, than string) error {
	for {
		version, _, newer := p.Changed()
		if version != than {
			return nil
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
