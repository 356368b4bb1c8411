package feed

import (
	"context"

	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// kind is a type of resource, in the order in which they are asked for.
type kind int

const (
	cds kind = iota
	eds
	lds
	rds
	sds
	nds // only with Config.Names
	idx // only with Config.Demand, as hst
	hst
	kinds
)

// types are the kinds.
var types = [kinds]struct {
	url      string
	wildcard bool
}{
	cds: {conf.CDSType, true}, eds: {conf.EDSType, false}, lds: {conf.LDSType, true},
	rds: {conf.RDSType, false}, sds: {conf.SDSType, false},
	nds: {conf.NDSType, true},
	idx: {ext.IndexType, false}, hst: {ext.HostType, false},
}

func kindOf(url string) (kind, bool) {
	for k := range types {
		if types[k].url == url {
			return kind(k), true
		}
	}
	return 0, false
}

// maxResources bounds the resources of one kind.
const maxResources = 200_000

// entry is one resource as far as it is known. Owned by the feed's goroutine.
type entry struct {
	node    any         // last good; nil: none
	needs   *conf.Needs // of node; never nil, shared by those that need nothing
	version string      // of node
	sum     uint64      // of node's bytes
	since   time.Time   // when node came
	gone    bool        // the control plane says that there is no such
	refused string      // why the newest version is not node; empty: it is
	badSum  uint64      // of the bytes that were refused
}

// store is what the control plane said of one kind.
type store struct {
	entries map[string]*entry
	// asked are the names subscribed to; nil for wildcards.
	asked map[string]bool
	// answered: there was a response on this stream.
	answered bool
	version  string // state of the world: last accepted
	nonce    string // of the newest response on this stream
	open     bool   // there was a request on this stream
}

func newStore(k kind) *store {
	s := &store{entries: map[string]*entry{}}
	if !types[k].wildcard {
		s.asked = map[string]bool{}
	}
	return s
}

// wants reports whether a resource was asked for.
func (f *Feed) wants(k kind, x *resource) bool {
	s := f.stores[k]
	return s.asked == nil && f.demand.own(k, x.name) || s.asked[x.name] || f.demand.wants(k, x)
}

var seed = maphash.MakeSeed()

// item is a resource on its way through the decoder.
type item struct {
	resource
	sum   uint64
	node  any
	needs *conf.Needs
	err   error
}

// decode makes nodes of items, through the gate, in pieces of a millisecond.
func (f *Feed) decode(ctx context.Context, k kind, items []*item) error {
	size := 0
	for _, x := range items {
		size += len(x.body)
	}
	f.fresh += size
	if size <= light {
		for _, x := range items {
			x.decode(k)
		}
		return nil
	}
	for len(items) > 0 {
		if err := f.c.Gate(ctx, func() {
			start := time.Now()
			for len(items) > 0 {
				items[0].decode(k)
				items = items[1:]
				if time.Since(start) > time.Millisecond {
					return
				}
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

func (x *item) decode(k kind) {
	defer func() {
		if p := recover(); p != nil {
			x.node, x.err = nil, fmt.Errorf("internal error: %v", p)
			slog.Error("BUG: panic while decoding", "type", types[k].url, "name", x.name, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	if x.typeURL != types[k].url {
		x.err = fmt.Errorf("it is a %s", x.typeURL)
		return
	}
	if x.node, x.err = conf.Decode(x.typeURL, x.name, x.body); x.err == nil {
		switch n := x.node.(type) { // the same bytes
		case *conf.Cluster:
			x.name = n.Name
		case *conf.Endpoints:
			x.name = n.Cluster
		}
		x.needs = &nothing
		if n := needs(x.node); len(n.Routes)+len(n.Clusters)+len(n.Endpoints)+len(n.Secrets) > 0 {
			x.needs = &n
		}
	}
}

var nothing conf.Needs

func needs(node any) conf.Needs {
	switch n := node.(type) {
	case *conf.Listener:
		return n.Needs()
	case *conf.RouteTable:
		return n.Needs()
	case *conf.Cluster:
		return n.Needs()
	}
	return conf.Needs{}
}

// take brings a response into the store. It returns the names that changed,
// what is to be kept on disk, and what was refused, by name.
func (f *Feed) take(ctx context.Context, k kind, r *response) (changed []string, refused map[string]string, err error) {
	var fresh []*item
	refused, named := map[string]string{}, make(map[string]bool, len(r.resources))
	size := perName * (len(r.resources) + len(r.removed))
	f.work(size, func() { changed, fresh = f.sift(k, r, named, refused) })
	if err := f.decode(ctx, k, fresh); err != nil {
		return nil, nil, err
	}
	f.work(size, func() { changed = f.keep(k, r, fresh, changed, named, refused) })
	return changed, refused, nil
}

// sift notes the names of a response, and finds what of it is new.
func (f *Feed) sift(k kind, r *response, named map[string]bool, refused map[string]string) (changed []string, fresh []*item) {
	s := f.stores[k]
	for _, x := range r.resources {
		if named[x.name] {
			refused[x.name] = "twice in one response"
			continue
		}
		named[x.name] = true
		if !f.wants(k, &x) {
			continue // late news of what is not wanted any more
		}
		f.demand.lead(k, &x)
		it := &item{resource: x, sum: bodySum(x.body)}
		e := s.entries[x.name]
		switch {
		case e != nil && e.node != nil && e.sum == it.sum:
			if e.gone || e.refused != "" || e.version != x.version {
				e.gone, e.refused, e.version = false, "", x.version
				changed = append(changed, x.name)
				f.disk.note(k, x.name, x.version, x.body)
			}
		case e != nil && e.refused != "" && e.badSum == it.sum:
			refused[x.name] = e.refused
		default:
			fresh = append(fresh, it)
		}
	}
	return changed, fresh
}

// keep takes what was decoded, and drops what is gone.
func (f *Feed) keep(k kind, r *response, fresh []*item, changed []string, named map[string]bool, refused map[string]string) []string {
	s := f.stores[k]
	for _, x := range fresh {
		if x.err == nil && s.entries[x.name] == nil && len(s.entries) >= maxResources {
			x.err = fmt.Errorf("more than %d resources", maxResources)
		}
		if x.err != nil {
			refused[x.name] = x.err.Error()
			s.refuse(x)
			continue
		}
		if old := s.entries[x.name]; old.has() && f.renamed(old.needs, x.needs) {
			f.resub = true
		}
		s.entries[x.name] = &entry{node: x.node, needs: x.needs, version: x.version, sum: x.sum, since: time.Now()}
		f.disk.note(k, x.name, x.version, x.body)
		changed = append(changed, x.name)
	}
	removed := r.removed
	if f.c.StateOfTheWorld && types[k].wildcard {
		for name := range s.entries {
			if !named[name] {
				removed = append(removed, name)
			}
		}
	}
	for _, name := range removed {
		if f.demand.deny(k, name) {
			continue
		}
		if !named[name] && f.remove(k, name) {
			changed = append(changed, name)
		}
	}
	return changed
}

func (s *store) refuse(x *item) {
	e := s.entries[x.name]
	if e == nil {
		if len(s.entries) >= maxResources {
			return
		}
		e = &entry{needs: &nothing}
		s.entries[x.name] = e
	}
	e.refused, e.badSum, e.gone = x.err.Error(), x.sum, false
}

// remove notes that there is no such resource. It reports whether that is news.
func (f *Feed) remove(k kind, name string) bool {
	s := f.stores[k]
	e := s.entries[name]
	switch {
	case s.asked == nil:
		delete(s.entries, name)
	case !s.asked[name]:
		if delete(s.entries, name); e == nil {
			return false
		}
	case e != nil && e.gone:
		return false
	default:
		s.entries[name] = &entry{needs: &nothing, gone: true, since: time.Now()}
	}
	if e != nil && e.node != nil {
		f.disk.note(k, name, "", nil)
	}
	return e != nil || s.asked != nil
}

// refusalText is a line "name: reason" for each, bounded in size.
func refusalText(refused map[string]string) string {
	names := make([]string, 0, len(refused))
	for n := range refused {
		names = append(names, n)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, n := range names {
		reason := strings.Map(func(r rune) rune {
			if r == '\n' || r == '\r' {
				return ' '
			}
			return r
		}, refused[n])
		if len(reason) > 1024 {
			reason = reason[:1024]
		}
		fmt.Fprintf(&b, "%s: %s\n", n, strings.ToValidUTF8(reason, "?"))
		if b.Len() > 24<<10 {
			break
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// bodySum tells the bytes of resources apart.
func bodySum(b []byte) uint64 { return maphash.Bytes(seed, b) }
