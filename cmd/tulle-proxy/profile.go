//go:build profile

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"
)

// A proxy that is built with this tag writes what its processor did, five
// seconds at a time, to the directory that TULLE_PROFILE names: `make pgo`
// makes default.pgo of it, by which the real one is compiled.
func init() {
	if dir := os.Getenv("TULLE_PROFILE"); dir != "" {
		go profile(dir)
	}
}

func profile(dir string) {
	for n := 0; ; n++ {
		name := filepath.Join(dir, fmt.Sprintf("%d-%d", os.Getpid(), n))
		f, err := os.Create(name)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "tulle-proxy: profile:", err)
			return
		}
		time.Sleep(5 * time.Second)
		pprof.StopCPUProfile()
		_ = f.Close()
		_ = os.Rename(name, name+".pprof")
	}
}
