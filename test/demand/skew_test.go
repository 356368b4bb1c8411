package demand

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

// generation makes the control plane an older one, that never heard of lookups
// and sends everything, or one of today, while it is stopped.
func (p *plane) generation(old bool) {
	p.mu.Lock()
	p.old = old
	p.mu.Unlock()
	table80 := table("80", "pass", "*")
	if old {
		table80.VirtualHosts = append(table80.VirtualHosts, table("80", "a", "a.shop").VirtualHosts...)
	}
	p.set(routes, map[string]proto.Message{"80": table80})
}

// A proxy of today under an older control plane has everything, as an older
// proxy; when the control plane is replaced by one of today it looks up, and back
// again. What it is used for goes on all the time, and nothing of the mesh ever
// ends elsewhere.
func TestSkew(t *testing.T) {
	p, b := shop(t)
	p.stop()
	p.generation(true)
	p.start()
	at := boot(p)
	at.StateDir = t.TempDir()
	s := newSidecar(t, at, b["outside"].addr).ready()
	defer s.always("an address of the mesh", func() string { return s.tcp("10.0.0.9:3306") }, "db")()
	defer s.always("a host of the mesh", func() string { return s.get("10.0.0.1:80", "a.shop") }, "200 a!")()
	s.is("an address elsewhere", s.tcp("192.0.2.1:3306"), "outside")
	s.is("an address of nobody", s.tcp("10.0.0.8:3306"), "outside")
	for i, old := range []bool{false, true, false} {
		p.stop()
		p.generation(old)
		p.start()
		s.wait(fmt.Sprintf("%d: it looks up, or does not", i), func() bool { return (s.Learnt() == nil) == old })
		s.is("an address elsewhere", s.tcp("192.0.2.1:3306"), "outside")
		s.is("an address of nobody", s.tcp("10.0.0.8:3306"), "outside")
		if n := s.metric("tulle_proxy_lookups_names"); (n == 0) != old {
			t.Errorf("%d names are held", n)
		}
	}
	if n := s.flagged("NC") + s.flagged("NR"); n > 0 {
		t.Errorf("%d requests failed", n)
	}
}

// Our own control plane is replaced by itself, while the mesh goes on: what is
// known serves, what changed meanwhile arrives, what is new is had, and the
// sidecar is the one on demand that it was.
func TestReplaced(t *testing.T) {
	w := newWorld(t, 3)
	dir, err := os.MkdirTemp("", "tulle")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	p, stop := start(t, dir, w)
	defer func() { stop() }()
	e := &ends{t: t, all: map[string]*backend{}}
	s := e.sidecar(p, "look", proxy.Bootstrap{OnDemand: true})
	defer s.always("a host that is always there", func() string { return s.get("192.0.2.1:80", "mark.mesh") }, "200 ")()
	s.wait("the registration is written down", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "workloads.json"))
		return strings.Contains(string(b), `"look"`)
	})
	for range 3 {
		stop()
		w.change()
		w.emit()
		_, stop = start(t, dir, w)
		mark := fmt.Sprint("200 ", w.step)
		s.wait("what changed", func() bool { return s.get("192.0.2.1:80", "mark.mesh") == mark })
		if s.Learnt() == nil {
			t.Fatal("it is not on demand any more")
		}
		s.is("an address elsewhere", s.tcp("203.0.113.9:5432"), "PassthroughCluster 203.0.113.9:5432")
	}
}
