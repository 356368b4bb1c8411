package control

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tulle-mesh/tulle/internal/model"
)

// keptRegistry is a registry over a file, as a restart would make it.
func keptRegistry(t *testing.T, file string) *registry {
	t.Helper()
	r := newRegistry(netip.MustParsePrefix("127.70.16.0/28"), "cluster.local", func() {})
	r.file = file
	kept, err := readKept(file)
	if err != nil {
		t.Fatal(err)
	}
	r.restore(kept)
	return r
}

// A program that comes back after a restart finds its place as it was: token,
// address and sockets, even before it comes, and also when nothing was kept.
func TestKept(t *testing.T) {
	f := &model.Fragment{Services: []*model.Service{{Host: "a.shop", Ports: []model.Port{{Number: 80}}}, {Host: "b.shop", Ports: []model.Port{{Number: 80}}}}}
	file := filepath.Join(t.TempDir(), "workloads.json")
	uid := uint32(7)
	r := keptRegistry(t, file)
	spec := WorkloadSpec{Namespace: "shop", Account: "orders", Ports: []PortSpec{{Port: 8080}}, Ready: true, PID: os.Getpid()}
	first, err := r.register(spec, f, &uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.keep(); err != nil {
		t.Fatal(err)
	}
	again := spec
	again.Name, again.Token, again.IP, again.Local, again.Ports = first.Name, first.Token, first.IP, first.Local, first.Ports

	for name, file := range map[string]string{"kept": file, "lost": filepath.Join(t.TempDir(), "none")} {
		t.Run(name, func(t *testing.T) {
			r := keptRegistry(t, file)
			if x := r.byBearer(first.Token); (x != nil) != (name == "kept") || x != nil && (!x.workload.Ready || x.uid != uid) {
				t.Fatalf("before it is back: %+v", x)
			}
			// Others take no place that is still held.
			if name == "kept" {
				other, err := r.register(WorkloadSpec{Namespace: "shop", Account: "other", IP: first.IP}, f, nil)
				if err != nil || other.IP == first.IP {
					t.Fatalf("another got %v, %v", other, err)
				}
			}
			// Other services come first in the meantime: sockets stay.
			more := &model.Fragment{Services: append([]*model.Service{{Host: "a.first", Ports: []model.Port{{Number: 80}}}}, f.Services...)}
			back, err := r.register(again, more, &uid)
			if err != nil {
				t.Fatal(err)
			}
			r.follow(more)
			if d := cmp.Diff(first, back, cmpopts.IgnoreUnexported(Registration{}), cmpopts.IgnoreFields(Registration{}, "Local"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
				t.Errorf("it is not the same (-before +after):\n%s", d)
			}
			for k, a := range first.Local {
				if back.Local[k] != a {
					t.Errorf("%s was at %s, is at %s", k, a, back.Local[k])
				}
			}
			if waiting, dropped := r.expire(true); waiting != 0 || len(dropped) != 0 {
				t.Errorf("dropped %q, %d wait", dropped, waiting)
			}
			if name == "kept" && r.drop(first.ID, &first.lease) {
				t.Error("the lease from before the restart ended the new one")
			}
			if !r.drop(back.ID, &back.lease) {
				t.Error("the lease does not end it")
			}
		})
	}

	t.Run("another's token", func(t *testing.T) {
		r := keptRegistry(t, file)
		x := again
		x.Name = "other-1"
		if _, err := r.register(x, f, nil); !errors.Is(err, ErrTaken) {
			t.Errorf("error %v, want %v", err, ErrTaken)
		}
	})
	t.Run("an address that another has", func(t *testing.T) {
		r := keptRegistry(t, "")
		if _, err := r.register(WorkloadSpec{Namespace: "shop", Account: "other", IP: first.IP}, f, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := r.register(again, f, nil); !errors.Is(err, ErrTaken) {
			t.Errorf("error %v, want %v", err, ErrTaken)
		}
	})
	t.Run("late", func(t *testing.T) {
		r := keptRegistry(t, file)
		if waiting, dropped := r.expire(false); waiting != 1 || len(dropped) != 0 {
			t.Errorf("at once: dropped %q, %d wait", dropped, waiting)
		}
		if waiting, dropped := r.expire(true); waiting != 0 || len(dropped) != 1 {
			t.Errorf("late: dropped %q, %d wait", dropped, waiting)
		}
	})
}

// The place of a program that has ended is not kept, and neither is what does
// not make sense.
func TestNotKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "workloads.json")
	r := keptRegistry(t, file)
	c := exec.Command("sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_, err := r.register(WorkloadSpec{Namespace: "shop", PID: c.Process.Pid}, &model.Fragment{}, nil)
	if err == nil {
		err = r.keep()
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := len(keptRegistry(t, file).workloads()); n != 1 {
		t.Errorf("%d are kept while it runs, want 1", n)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if n := len(keptRegistry(t, file).workloads()); n != 0 {
		t.Errorf("%d are kept after its end, want none", n)
	}
	for _, text := range []string{"", "{", `{"format":2}`, `{"format":1,"workloads":[{}]}`, `{"format":1,"workloads":[{"workload":{"Address":"10.0.0.1"},"token":"AAAA"}]}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRegistry(netip.MustParsePrefix("127.70.16.0/28"), "cluster.local", func() {})
		r.file = file
		kept, _ := readKept(file)
		r.restore(kept)
		if n := len(r.workloads()); n != 0 {
			t.Errorf("%q gave %d workloads", text, n)
		}
	}
}
