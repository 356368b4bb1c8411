//go:build linux

package proxy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// reopenEvery is how often it is tried to open a listener whose address is in
// use.
const reopenEvery = 200 * time.Millisecond

// listen opens the listeners of s and reports whether all are open. What was
// told before is not told again. The caller holds p.opening.
func (p *Proxy) listen(s *conf.Snapshot, told string) bool {
	var failed []string
	errs := p.sockets.Update(s.Listeners)
	for _, n := range slices.Sorted(maps.Keys(errs)) {
		failed = append(failed, fmt.Sprintf("%s: %v", n, errs[n]))
	}
	text := strings.Join(failed, "; ")
	if text != "" && text != told {
		p.log.Error("listeners cannot be opened; it is tried again and again", "reason", text)
	}
	p.unopened.Store(&text)
	switch more := p.incomplete(s); {
	case more != "":
		p.waiting.Store(more)
	case !p.leaving.Load() && (len(errs) == 0 || len(errs) < len(s.Listeners)):
		if !p.ready.Swap(true) {
			p.first.Do(func() {
				close(p.served)
				p.tidy.Reset(tidyAfter)
			})
		}
	default:
		p.ready.Store(false)
	}
	return len(errs) == 0
}

// reopen tries again to open the listeners of s, while s is in force.
func (p *Proxy) reopen(ctx context.Context, s *conf.Snapshot) {
	t := time.NewTicker(reopenEvery)
	defer t.Stop()
	for done := false; !done; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		p.opening.Lock()
		switch {
		case p.snapshot.Load() != s || ctx.Err() != nil: // a newer one sees to itself
			done = true
		case p.listen(s, *p.unopened.Load()):
			p.log.Info("all listeners are open now")
			done = true
		}
		p.opening.Unlock()
	}
}

// incomplete says what readiness waits for beside listeners; empty: nothing.
func (p *Proxy) incomplete(s *conf.Snapshot) string {
	if s.Names == nil && s.Index == nil && p.names != nil {
		return "the control plane has not told the names of the mesh yet"
	}
	return ""
}
