package control

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/source/file"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// A client that takes its key from SDS gets a new pair at half of the life of
// the old one, and none after it has gone.
func TestSDSRotatesAtHalfLife(t *testing.T) {
	dir, socket := t.TempDir(), shortDir(t)+"/x"
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Options{Dir: dir, Source: &file.Watcher{}, Socket: socket})
		ok(t, err)
		defer p.Close()
		objects, _ := file.Parse("shop.yaml", []byte(shop))
		f, notices := Read(snapshot(objects))
		p.compile(1, f, notices)
		reg, err := p.Register(WorkloadSpec{Namespace: "shop", Deployment: "users"}, nil)
		ok(t, err)
		feed, err := p.open(p.registry.find(reg.ID).seat(), &xds.Node{UserAgent: "envoy"})
		ok(t, err)
		begin := time.Now()
		var last string
		for n := range 3 {
			set, newer := feed.Get()
			now := set.Find(xds.SecretType, "default")
			if now == nil || now.Version == last {
				t.Fatalf("pair %d is the one before", n)
			}
			last = now.Version
			<-newer
			begin = begin.Add(12 * time.Hour)
			if off := time.Since(begin); off.Abs() > time.Duration(n+1)*20*time.Minute {
				t.Errorf("pair %d came %v off its time", n+1, off)
			}
		}
		feed.Close()
		_, newer := feed.Get()
		select {
		case <-newer:
			t.Error("a new pair for a client that has gone")
		case <-time.After(48 * time.Hour):
		}
	})
}
