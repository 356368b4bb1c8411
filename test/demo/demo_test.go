// Package demo runs the demo as a user would, in both modes, and looks for
// what it left behind.
package demo

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// family lists the processes that run from a directory of programs.
func family(t *testing.T, dir string) []string {
	t.Helper()
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range exes {
		if p, err := os.Readlink(e); err == nil && strings.HasPrefix(p, dir) {
			cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(e), "cmdline"))
			out = append(out, strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return out
}

// long also runs what takes minutes: an older build beside today's.
var long = flag.Bool("long", false, "also with one program of an older commit")

// older is a commit whose control plane and proxies speak on demand. Versions that
// are released take its place.
const older = "061d790"

// pairs are directories with both programs: today's and, in the long form, one of
// an older build with the other of today, both ways.
func pairs(t *testing.T) map[string]string {
	today := filepath.Dir(programs(t))
	out := map[string]string{"today": today}
	if !*long {
		return out
	}
	tree, old := t.TempDir(), t.TempDir()
	c := exec.Command("sh", "-c", "git archive "+older+" | tar -x -C "+tree)
	c.Dir = "../.."
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if err := build(tree, old); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string][2]string{"older proxies": {today, old}, "older control plane": {old, today}} {
		dir := t.TempDir()
		for i, program := range []string{"tulle", "tulle-proxy"} {
			if err := os.Link(filepath.Join(from[i], program), filepath.Join(dir, program)); err != nil {
				t.Fatal(err)
			}
		}
		out[name] = dir
	}
	return out
}

func TestStories(t *testing.T) {
	for name, dir := range pairs(t) {
		for _, mode := range modes {
			t.Run(name+"/"+mode.name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
				defer cancel()
				var out, errs bytes.Buffer
				c := exec.CommandContext(ctx, filepath.Join(dir, "tulle"), append([]string{"demo", "--check", "-v", "--gateway-port", mode.port}, mode.args...)...)
				c.Stdout, c.Stderr = &out, &errs
				if err := c.Run(); err != nil {
					t.Fatalf("%v\n%s\n%s", err, out.String(), tail(errs.String(), 60))
				}
				if !strings.Contains(out.String(), " 0 failed") || strings.Contains(out.String(), "FAIL") {
					t.Fatalf("no verdict:\n%s", out.String())
				}
				if left := family(t, dir); len(left) > 0 {
					t.Errorf("left running: %q", left)
				}
			})
		}
	}
}

// TestInterrupt ends a demo as Ctrl-C does and wants nothing left of it, and a
// second start on the same state.
func TestInterrupt(t *testing.T) {
	tulle := programs(t)
	dir := t.TempDir()
	for range 2 {
		c := exec.Command(tulle, "demo", "--dir", dir, "--no-load", "--gateway-port", "18084")
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		r, w := io.Pipe()
		c.Stdout, c.Stderr = w, w
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var seen strings.Builder
		opened := make(chan bool, 1)
		go func() {
			in := bufio.NewScanner(r)
			for in.Scan() {
				fmt.Fprintln(&seen, in.Text())
				if strings.HasPrefix(in.Text(), "Its configuration is in") {
					opened <- true
					break
				}
			}
			_, _ = io.Copy(io.Discard, r)
		}()
		select {
		case <-opened:
		case <-time.After(time.Minute):
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			t.Fatalf("the shop did not open:\n%s", seen.String())
		}
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGINT)
		if err := c.Wait(); err != nil {
			t.Errorf("after Ctrl-C: %v", err)
		}
		_ = w.Close()
		if left := family(t, filepath.Dir(tulle)); len(left) > 0 {
			t.Errorf("left running: %q", left)
		}
	}
}

func tail(s string, n int) string {
	l := strings.Split(s, "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

// modes in which the demo must work.
var modes = []struct {
	name, port string
	args       []string
}{
	{"ports", "18083", []string{"--mode", "ports"}},
	{"namespaces", "18085", []string{"--mode", "namespaces"}},
}
