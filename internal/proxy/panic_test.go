package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// TestPanic: an internal error while an event is handled ends that connection
// and is counted; where it is decided who may, it is a no. Others go on.
func TestPanic(t *testing.T) {
	var seen atomic.Int32
	back := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) }))
	defer back.Close()
	broken := &conf.RBAC{Action: conf.RBACDeny, Policies: []conf.RBACPolicy{{Name: "broken", Permissions: []*conf.RBACRule{nil}, Principals: []*conf.RBACRule{nil}}}}
	s := toBackend(strings.TrimPrefix(back.URL, "http://"), func(h *conf.HTTP, r *conf.Route, _ *conf.Cluster) {
		h.Filters = []conf.Filter{{Name: "rbac", RBAC: &conf.RBAC{Action: conf.RBACDeny}}}
		denied := *r
		denied.Match.Path = "/denied"
		denied.RBAC = map[string]*conf.RBACOverride{"rbac": {RBAC: broken}}
		bad, forward := *r, *r.Forward
		forward.RegexRewrite = new(regexp.Regexp) // which conf never makes
		bad.Match.Path, bad.Forward = "/bad", &forward
		v := h.Routes.Any
		v.Routes = append([]*conf.Route{&denied, &bad}, v.Routes...)
	})
	p, addr := start(t, s)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // so that Go does not try twice
	get := func(path string) (int, error) {
		r, err := c.Get("http://" + addr + path)
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		return r.StatusCode, err
	}
	if n, err := get("/denied"); n != 403 {
		t.Errorf("where a policy cannot be evaluated: %d %v", n, err)
	}
	if n := p.group.Panics(); n != 0 {
		t.Errorf("%d errors counted", n)
	}
	if n, err := get("/bad"); err == nil {
		t.Errorf("an internal error was answered by %d", n)
	}
	if n := p.group.Panics(); n != 1 {
		t.Errorf("%d errors counted, want 1", n)
	}
	before := seen.Load()
	if n, err := get("/"); n != 200 || seen.Load() != before+1 {
		t.Errorf("afterwards: %d %v, the backend saw %d", n, err, seen.Load()-before)
	}
	if before != 0 {
		t.Errorf("the backend saw %d requests that were not to reach it", before)
	}
}
