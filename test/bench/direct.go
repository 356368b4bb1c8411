package main

import "context"

// direct is no proxy at all: what the others add is measured against it.
var direct = &contender{
	name: "direct", columns: []string{equal}, fronts: []front{plain, muxed, paired, ending, stream, fed},
	start: func(_ context.Context, p *plan) (*running, error) { return &running{addr: p.upstream()}, nil },
}
