package control

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// What clients have asked for and left again, or asked for in vain, is forgotten,
// also when nothing in the mesh changes: the memo is bounded by what is in use.
func TestMemoIsBounded(t *testing.T) {
	p, err := New(Options{Dir: t.TempDir(), Source: &file.Watcher{}, Socket: shortDir(t) + "/x"})
	ok(t, err)
	t.Cleanup(p.Close)
	objects, _ := file.Parse("mesh.yaml", []byte("apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\nspec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}\n"))
	f, notices := Read(source.Snapshot{Objects: objects})
	p.compile(1, f, notices)
	reg, err := p.Register(WorkloadSpec{Namespace: "n", Name: "w", Redirected: true}, nil)
	ok(t, err)
	feed, err := p.open(p.registry.find(reg.ID).seat(), &xds.Node{UserAgent: proxyAgent, Delta: true, Features: []string{ext.Demand}})
	ok(t, err)
	if feed.Ask == nil {
		t.Fatal("the client is not on demand")
	}
	book := p.memo.mesh.Book()
	most, keys := 0, 0
	var last []string
	for round := range 80 {
		var names []string
		for i := range 200 {
			names = append(names, fmt.Sprintf("r%d.h%d.svc", round, i))
		}
		feed.Ask(ext.HostType, names, last)
		last = names
		most, keys = max(most, book.Size()), max(keys, len(p.memo.questions))
	}
	if book.Computed() < 30_000 {
		t.Errorf("%d computations are no work for the memo", book.Computed())
	}
	if bound := 2*2_000 + 10_000 + 2_000; most > bound || keys > bound {
		t.Errorf("the memo grew to %d values and %d questions", most, keys)
	}
	book.Do(func() { p.memo.swept = 0; p.memo.mesh.Sweep(); p.tidy(p.memo) })
	set, _ := feed.Get()
	if set.Find(ext.HostType, "r0.h0.svc") != nil {
		t.Error("there is such a host")
	}
	feed.Ask(ext.HostType, []string{"s.n.svc.cluster.local"}, last)
	if set, _ = feed.Get(); set.Find(ext.HostType, "s.n.svc.cluster.local") == nil {
		t.Error("what is asked for after a sweep has no answer")
	}
}
