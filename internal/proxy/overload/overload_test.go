package overload

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

// A level begins at its mark and ends a little below it.
func TestLevels(t *testing.T) {
	var used int64
	w := New(1000, func() int64 { return used })
	for _, step := range []struct {
		used int64
		want Level
	}{
		{100, Fine}, {849, Fine}, {850, Tight}, {830, Tight}, {819, Fine}, {930, Full}, {900, Full}, {880, Tight},
		{980, Over}, {945, Over}, {935, Full}, {100, Fine}, {5000, Over},
	} {
		used = step.used
		old := w.Level()
		got, changed := w.Sample()
		if got != step.want || w.Level() != got || changed != (got != old) {
			t.Errorf("%d of 1000 after %v: %v (changed %v), want %v", used, old, got, changed, step.want)
		}
	}
	var none *Watch
	if none.Level() != Fine || none.Limited() || none.Pressure() != 0 {
		t.Error("nil is not fine")
	}
	if l, changed := New(0, Used).Sample(); l != Fine || changed {
		t.Error("without a limit it is not fine")
	}
}

func TestLimit(t *testing.T) {
	was := debug.SetMemoryLimit(-1)
	files := cgroupLimits
	t.Cleanup(func() { debug.SetMemoryLimit(was); cgroupLimits = files })
	dir := t.TempDir()
	v2, v1 := filepath.Join(dir, "v2"), filepath.Join(dir, "v1")
	cgroupLimits = []string{v2, v1}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	debug.SetMemoryLimit(1<<63 - 1)
	if n := Limit(); n != 0 {
		t.Errorf("no cgroup: %d", n)
	}
	write(v2, "max\n")
	write(v1, "9223372036854771712\n")
	if n := Limit(); n != 0 {
		t.Errorf("cgroups without a limit: %d", n)
	}
	write(v2, "1000000000\n")
	if n := Limit(); n != 800000000 || debug.SetMemoryLimit(-1) != n {
		t.Errorf("cgroup of 1 GB: %d", n)
	}
	debug.SetMemoryLimit(500000000)
	if n := Limit(); n != 500000000 {
		t.Errorf("GOMEMLIMIT loses to the cgroup: %d", n)
	}
}

// What is held counts.
func TestUsed(t *testing.T) {
	debug.FreeOSMemory() // or what others held ends in between
	before := Used()
	hold := make([]byte, 64<<20)
	debug.FreeOSMemory()
	if grown := Used() - before; grown < 60<<20 || grown > 80<<20 {
		t.Errorf("64 MiB count as %d", grown)
	}
	hold[0] = 1
}
