package generate

import (
	"encoding/json"
	"maps"
	"slices"
)

// Smaller are the configurations from which one thing is gone: an object, a
// field, an element, a request's header. The ones with the most gone come first.
func (c *Config) Smaller() []*Config {
	var out []*Config
	shrink(List(c.Objects), func(v any) {
		out = append(out, &Config{Seed: c.Seed, Number: c.Number, Objects: v.(List), Requests: c.Requests})
	})
	for i, r := range c.Requests {
		for h := range r.Headers {
			less := r
			less.Headers = slices.Delete(slices.Clone(r.Headers), h, h+1)
			all := slices.Clone(c.Requests)
			all[i] = less
			out = append(out, &Config{Seed: c.Seed, Number: c.Number, Objects: c.Objects, Requests: all})
		}
	}
	slices.SortStableFunc(out, func(a, b *Config) int { return a.Size() - b.Size() })
	return out
}

// Size of a configuration, to compare it with another.
func (c *Config) Size() int {
	b, err := json.Marshal(c)
	if err != nil {
		panic("BUG: a tree is no JSON: " + err.Error())
	}
	return len(b)
}

// shrink tells every tree that v becomes when one node below it is gone.
func shrink(v any, tell func(any)) {
	switch v := v.(type) {
	case Obj:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			less := maps.Clone(v)
			delete(less, k)
			tell(less)
			shrink(v[k], func(sub any) {
				less := maps.Clone(v)
				less[k] = sub
				tell(less)
			})
		}
	case List:
		for i := range v {
			if len(v) > 2 {
				tell(List{v[i]})
			}
			tell(slices.Delete(slices.Clone(v), i, i+1))
			shrink(v[i], func(sub any) {
				less := slices.Clone(v)
				less[i] = sub
				tell(less)
			})
		}
	}
}
