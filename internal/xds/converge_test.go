package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// client is a dumb xDS client for one type. A body that begins with "bad" is
// not to its taste: it keeps what it had under that name.
type client struct {
	f        *fake
	typ      string
	wildcard bool
	names    map[string]bool
	vague    bool // refuses a response as a whole, and does not say why
	held     map[string]string
}

func (c *client) list() []string {
	if c.wildcard {
		return nil
	}
	return slices.Sorted(maps.Keys(c.names))
}

// take applies a response and answers it.
func (c *client) take(r *response) {
	var bad []string
	for _, x := range r.resources {
		if strings.HasPrefix(string(x.Body), "bad") {
			bad = append(bad, x.Name)
		}
	}
	if len(bad) > 0 && c.vague {
		c.f.nack(r, "something was wrong", c.list()...)
		return
	}
	full := !c.f.isDelta && (c.typ == "lds" || c.typ == "cds")
	now := map[string]bool{}
	for _, x := range r.resources {
		now[x.Name] = true
		if !slices.Contains(bad, x.Name) {
			c.held[x.Name] = string(x.Body)
		}
	}
	for _, n := range r.removed {
		delete(c.held, n)
	}
	if full {
		maps.DeleteFunc(c.held, func(n, _ string) bool { return !now[n] })
	}
	if len(bad) == 0 {
		c.f.ack(r, c.list()...)
		return
	}
	var why []string
	for _, n := range bad {
		why = append(why, n+": is bad")
	}
	c.f.nack(r, strings.Join(why, "\n"), c.list()...)
}

// Whatever happens in between, a client ends with what the last set holds: good
// resources at their newest, bad ones at the last good version that it was
// given, nothing that is gone. A bad body is sent once by name, or until it is
// found, and then no more.
func TestClientsConverge(t *testing.T) {
	for seed := range uint64(2000) {
		synctest.Test(t, func(t *testing.T) { converge(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func converge(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	f := start(t, rnd.IntN(2) == 0, nil)
	defer f.stop()
	c := &client{
		f: f, typ: []string{"cds", "eds", "lds", "rds", "sds"}[rnd.IntN(5)],
		wildcard: rnd.IntN(2) == 0, vague: rnd.IntN(2) == 0, names: map[string]bool{}, held: map[string]string{},
	}
	state := map[string]string{}
	change := func() {
		for range 1 + rnd.IntN(4) {
			n := string(rune('a' + rnd.IntN(8)))
			switch rnd.IntN(5) {
			case 0:
				delete(state, n)
			case 1:
				state[n] = fmt.Sprint("bad", rnd.IntN(3))
			default:
				state[n] = fmt.Sprint("v", rnd.IntN(100))
			}
		}
		var w []string
		for _, n := range slices.Sorted(maps.Keys(state)) {
			w = append(w, n+"="+state[n])
		}
		f.put(c.typ + " " + strings.Join(w, " "))
	}
	change()
	if !c.wildcard {
		for range 1 + rnd.IntN(5) {
			c.names[string(rune('a'+rnd.IntN(8)))] = true
		}
	}
	f.ask(c.typ, "", c.list()...)
	last := ""
	sent := 0
	serve := func(quiet time.Duration) {
		for {
			select {
			case r := <-f.out:
				if sent++; sent > 2000 {
					t.Fatal("it never ends")
				}
				last = r.nonce
				c.take(r)
			case <-time.After(quiet):
				return
			}
		}
	}
	for range 20 {
		switch rnd.IntN(4) {
		case 0:
			serve(time.Duration(rnd.IntN(300)) * time.Millisecond)
		case 1:
			if c.wildcard {
				continue
			}
			n := string(rune('a' + rnd.IntN(8)))
			switch {
			case !c.names[n]:
				c.names[n] = true
				if f.isDelta {
					f.ask(c.typ, "", n)
					continue
				}
			case len(c.names) > 1:
				delete(c.names, n)
				delete(c.held, n)
				if f.isDelta {
					f.ask(c.typ, "", "-"+n)
					continue
				}
			default:
				continue
			}
			f.ask(c.typ, last, c.list()...)
		default:
			change()
			time.Sleep(time.Duration(rnd.IntN(150)) * time.Millisecond)
		}
	}
	serve(time.Minute)
	full := !f.isDelta && (c.typ == "lds" || c.typ == "cds")
	for n := range c.held {
		if _, there := state[n]; !there && (c.wildcard || c.names[n]) && (full || f.isDelta) {
			t.Errorf("it still holds %s, which is gone", n)
		}
	}
	for n, body := range state {
		if (c.wildcard || c.names[n]) && !strings.HasPrefix(body, "bad") && c.held[n] != body {
			t.Errorf("it holds %s=%q, want %q", n, c.held[n], body)
		}
	}
}
