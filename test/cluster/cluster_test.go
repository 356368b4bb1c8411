//go:build linux && e2e

package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain is also a process that has a cluster and waits to be killed.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_HOLD") == "" {
		os.Exit(m.Run())
	}
	c, err := Up(context.Background(), Options{Nodes: 1, Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(c.Dir)
	select {}
}

func start(t *testing.T) *Cluster {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // a cold build
	defer cancel()
	c, err := Up(ctx, Options{Nodes: 1, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Down() })
	return c
}

// TestDown: while another cluster runs on the same machine, one goes up and
// down, and nothing is left of it.
func TestDown(t *testing.T) {
	t.Parallel()
	c := start(t)
	s := traces(t, c.Dir)
	if len(s.namespaces) != 4 { // process and network namespaces of the host and a node
		t.Fatalf("namespaces of the cluster: %v", s.namespaces)
	}
	if s.left() == nil {
		t.Fatal("a cluster that runs leaves no trace: the test sees nothing")
	}
	if err := c.Down(); err != nil {
		t.Fatal(err)
	}
	if left := s.left(); left != nil {
		t.Errorf("after Down there is still %v", left)
	}
	if err := c.Down(); err != nil {
		t.Errorf("a second Down: %v", err)
	}
}

// TestKilled: a process that has a cluster is killed with -9.
func TestKilled(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_HOLD=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	s := traces(t, strings.TrimSpace(dir))
	if len(s.namespaces) != 4 {
		t.Fatalf("namespaces of the cluster: %v", s.namespaces)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	deadline := time.Now().Add(time.Minute)
	for s.left() != nil {
		if time.Now().After(deadline) {
			t.Fatalf("a minute after kill -9 there is still %v", s.left())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// trace is what can be seen of a cluster from outside.
type trace struct {
	dir        string
	namespaces map[string]bool // as in /proc/PID/ns: of processes and networks
}

// traces of the cluster that runs in dir: its namespaces are those that a
// descendant of its guard has and we do not.
func traces(t *testing.T, dir string) trace {
	s := trace{dir: dir, namespaces: map[string]bool{}}
	own := map[string]bool{}
	for _, kind := range []string{"net", "pid"} {
		l, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		own[l] = true
	}
	guards, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, g := range guards {
		b, _ := os.ReadFile(g)
		if !strings.HasSuffix(strings.TrimRight(string(b), "\x00"), "\x00"+dir) {
			continue
		}
		pid := filepath.Base(filepath.Dir(g))
		children, _ := filepath.Glob(filepath.Dir(g) + "/task/*/children")
		for _, c := range children {
			b, _ := os.ReadFile(c)
			for f := range strings.FieldsSeq(string(b)) {
				for _, kind := range []string{"net", "pid"} {
					if l, err := os.Readlink("/proc/" + f + "/ns/" + kind); err == nil && !own[l] {
						s.namespaces[l] = true
					}
				}
			}
		}
		t.Logf("guard %s holds %v", pid, s.namespaces)
	}
	return s
}

// left is what is still there: processes in the namespaces, mounts, named
// network namespaces, control groups, files.
func (s trace) left() []string {
	var left []string
	procs, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	for _, p := range procs {
		if l, err := os.Readlink(p); err == nil && s.namespaces[l] {
			left = append(left, p+" "+l)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		inode := strings.TrimRight(line, "\n")
		if strings.Contains(inode, s.dir) {
			left = append(left, inode)
		}
		for n := range s.namespaces {
			if strings.Contains(inode, n) {
				left = append(left, inode)
			}
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), filepath.Base(s.dir)) {
			left = append(left, path)
		}
		return nil
	})
	if _, err := os.Stat(s.dir); err == nil {
		left = append(left, s.dir)
	}
	return left
}
