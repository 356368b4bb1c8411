package xds

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync"
)

// Catalog is resources that many clients share. Immutable: Change makes the
// next one, at the cost of what changes, and remembers what that was, so that a
// client that has seen an earlier one is compared by that alone. A nil Catalog
// is empty.
type Catalog struct {
	types  map[string]*shelf
	line   *int // the same in all that were made from one another
	serial uint64
	log    []entry // the newest last
	small  bool
}

// Small is an empty catalog for few resources, which is not divided.
func Small() *Catalog { return &Catalog{line: new(int), small: true} }

// entry is what one Change changed, by type URL.
type entry struct {
	serial uint64
	names  map[string][]string
}

// longest log of a Catalog. Clients that are further behind compare everything.
const longestLog = 64

// shortLog is that of a small one: to compare all of it costs little.
const shortLog = 8

// shelf is the resources of one type, in parts by the hash of their names, so
// that a change copies only a part.
type shelf struct {
	parts  []map[string]*Resource // shelfParts, or one
	size   int
	sorted func() []string
}

const shelfParts = 64

var seed = maphash.MakeSeed()

func (sh *shelf) partOf(name string) int {
	if len(sh.parts) == 1 {
		return 0
	}
	return int(maphash.String(seed, name) % shelfParts)
}

// Key names a resource.
type Key struct{ Type, Name string }

// Alias has a resource found by one more name of its type.
type Alias struct {
	Name string
	To   *Resource
}

// Change is the catalog with some resources, that replace those of the same
// name, and without others. Resources whose version is the same as before, or
// that were not there, count for nothing; when all do, the catalog itself is
// returned. The resources must not change afterwards.
func (c *Catalog) Change(put []*Resource, drop []Key, aliases ...Alias) *Catalog {
	out := &Catalog{types: map[string]*shelf{}, line: new(int), serial: 1}
	if c != nil {
		out.line, out.serial, out.small = c.line, c.serial+1, c.small
		maps.Copy(out.types, c.types)
	}
	e := entry{out.serial, map[string][]string{}}
	fresh := map[string]*[shelfParts]bool{} // parts that are ours to write
	set := func(k Key, r *Resource) {
		copied := fresh[k.Type]
		if copied == nil {
			sh := &shelf{}
			if old := out.types[k.Type]; old != nil {
				sh.parts, sh.size = slices.Clone(old.parts), old.size
			} else if out.small {
				sh.parts = make([]map[string]*Resource, 1)
			} else {
				sh.parts = make([]map[string]*Resource, shelfParts)
			}
			copied = &[shelfParts]bool{}
			fresh[k.Type], out.types[k.Type] = copied, sh
		}
		sh := out.types[k.Type]
		i := sh.partOf(k.Name)
		if !copied[i] {
			copied[i] = true
			if sh.parts[i] = maps.Clone(sh.parts[i]); sh.parts[i] == nil {
				sh.parts[i] = map[string]*Resource{}
			}
		}
		sh.size -= len(sh.parts[i])
		if r != nil {
			sh.parts[i][k.Name] = r
		} else {
			delete(sh.parts[i], k.Name)
		}
		sh.size += len(sh.parts[i])
		e.names[k.Type] = append(e.names[k.Type], k.Name)
	}
	for _, k := range drop {
		if out.Find(k.Type, k.Name) != nil {
			set(k, nil)
		}
	}
	for _, r := range put {
		if differs(out.Find(r.Type, r.Name), r) {
			set(Key{r.Type, r.Name}, r)
		}
	}
	for _, a := range aliases {
		if differs(out.Find(a.To.Type, a.Name), a.To) {
			set(Key{a.To.Type, a.Name}, a.To)
		}
	}
	if len(e.names) == 0 && c != nil {
		return c
	}
	for url := range fresh {
		sh := out.types[url]
		sh.sorted = sync.OnceValue(sh.names)
	}
	if c != nil {
		longest := longestLog
		if c.small {
			longest = shortLog
		}
		out.log = append(c.log[max(0, len(c.log)+1-longest):len(c.log):len(c.log)], e)
	}
	return out
}

func (sh *shelf) names() []string {
	out := make([]string, 0, sh.size)
	for _, p := range sh.parts {
		for n := range p {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Find is a resource of the catalog; nil when it has none of that name.
func (c *Catalog) Find(typeURL, name string) *Resource {
	if c == nil || c.types[typeURL] == nil {
		return nil
	}
	sh := c.types[typeURL]
	return sh.parts[sh.partOf(name)][name]
}

// Names of the resources of a type, sorted. The caller must not change them.
func (c *Catalog) Names(typeURL string) []string {
	if c == nil || c.types[typeURL] == nil {
		return nil
	}
	return c.types[typeURL].sorted()
}

// since is what changed after an older catalog; false when that is not known.
func (c *Catalog) since(old *Catalog) ([]entry, bool) {
	if c == nil || old == nil || c.line != old.line || old.serial > c.serial {
		return nil, false
	}
	n := int(c.serial - old.serial)
	if n > len(c.log) {
		return nil, false
	}
	return c.log[len(c.log)-n:], true
}
