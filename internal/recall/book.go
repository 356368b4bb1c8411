package recall

import "sync"

// Book is a set of facts and tables that depend on each other. Everything in it
// is used within Do.
type Book struct {
	mu    sync.Mutex
	doing *node  // whose value is being computed
	turn  uint64 // number of the computation
	nodes map[*node]struct{}
	woken []*node
	epoch uint32
	made  uint64 // computations so far
}

// New makes an empty Book.
func New() *Book { return &Book{nodes: map[*node]struct{}{}} }

// Do runs f while no other Do runs.
func (b *Book) Do(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// state of a node, in rising order of doubt.
type state uint8

const (
	clean state = iota
	check       // something that it depends on indirectly has changed
	stale       // something that it read has changed
	busy        // being computed
)

// node is a fact or the remembered value of a function.
type node struct {
	book  *Book
	self  result
	state state
	pins  int32  // watchers
	asked uint32 // epoch in which somebody outside of a table asked
	seen  uint64 // the computation that read it last
	reads []edge
	kept  int // of reads: so many were read again by the computation under way
	users []edge
	wake  func()
}

// edge leads to another node, and to the place there that leads back.
type edge struct {
	n  *node
	at int32
}

// result is the typed side of a node.
type result interface {
	renew() (changed bool) // of a fact: never called
	forget()
}

func (b *Book) add(n *node, self result, s state) {
	n.book, n.self, n.state, n.asked = b, self, s, b.epoch
	b.nodes[n] = struct{}{}
}

// ask brings n up to date and notes that it was read.
func (n *node) ask() {
	b := n.book
	if n.state != clean {
		n.refresh()
	}
	if b.doing == nil {
		n.asked = b.epoch
		return
	}
	if n.seen == b.turn {
		return
	}
	n.seen = b.turn
	b.doing.note(n)
}

// note keeps the edge to n when the last computation read it at the same point,
// else drops what it read from here on.
func (n *node) note(read *node) {
	if n.kept < len(n.reads) {
		if n.reads[n.kept].n == read {
			n.kept++
			return
		}
		n.cut()
	}
	n.reads = append(n.reads, edge{read, int32(len(read.users))})
	read.users = append(read.users, edge{n, int32(len(n.reads) - 1)})
	n.kept++
}

// cut drops the reads behind the kept ones.
func (n *node) cut() {
	for i := len(n.reads) - 1; i >= n.kept; i-- {
		r, at := n.reads[i].n, n.reads[i].at
		last := len(r.users) - 1
		moved := r.users[last]
		r.users[at] = moved
		moved.n.reads[moved.at].at = at
		r.users[last] = edge{}
		r.users = r.users[:last]
		n.reads[i] = edge{}
	}
	n.reads = n.reads[:n.kept]
}

// stir marks n as doubtful, and what depends on it.
func (n *node) stir(s state) {
	if n.state >= s {
		return
	}
	was := n.state
	n.state = s
	if was != clean {
		return
	}
	if n.wake != nil {
		n.book.woken = append(n.book.woken, n)
	}
	for _, u := range n.users {
		u.n.stir(check)
	}
}

// refresh makes n clean.
func (n *node) refresh() {
	switch n.state {
	case busy:
		panic("BUG: a value depends on itself")
	case check:
		for i := 0; i < len(n.reads) && n.state == check; i++ {
			if r := n.reads[i].n; r.state != clean {
				r.refresh()
			}
		}
		if n.state == check {
			n.state = clean
			return
		}
	}
	n.compute()
}

// compute runs the function. When it panics, n stays stale.
func (n *node) compute() {
	b := n.book
	outer, turn := b.doing, b.turn
	b.made++
	b.doing, b.turn = n, b.made
	n.state, n.kept = busy, 0
	done := false
	defer func() {
		b.doing, b.turn = outer, turn
		n.cut()
		if !done {
			n.state = stale
		}
	}()
	changed := n.self.renew()
	done = true
	n.state = clean
	if changed {
		for _, u := range n.users {
			if u.n.state < stale {
				u.n.stir(stale)
			}
		}
	}
}

// Woken calls the watchers whose values may have changed since the last call.
// A watcher is called once; it is called again only after its value was asked
// for.
func (b *Book) Woken() {
	list := b.woken
	b.woken = nil
	for _, n := range list {
		if n.wake != nil && n.state != clean {
			n.wake()
		}
	}
}

// Size is the number of facts and values, and Computed how often a function was
// run.
func (b *Book) Size() int { return len(b.nodes) }

// Computed counts the runs of functions.
func (b *Book) Computed() uint64 { return b.made }

// Sweep forgets values that no other value has read, nobody watches, and nobody
// has asked for since the Sweep before; and what only these had read. It returns
// how many.
func (b *Book) Sweep() int {
	before := len(b.nodes)
	var idle []*node
	for n := range b.nodes {
		if n.idle() {
			idle = append(idle, n)
		}
	}
	for len(idle) > 0 {
		n := idle[len(idle)-1]
		idle = idle[:len(idle)-1]
		reads := make([]*node, 0, len(n.reads))
		for _, r := range n.reads {
			reads = append(reads, r.n)
		}
		n.kept = 0
		n.cut()
		n.self.forget()
		delete(b.nodes, n)
		for _, r := range reads {
			if _, there := b.nodes[r]; there && r.idle() {
				idle = append(idle, r)
			}
		}
	}
	b.epoch++
	return before - len(b.nodes)
}

// idle reports whether n may be forgotten.
func (n *node) idle() bool {
	if len(n.users) > 0 || n.pins > 0 || n.asked >= n.book.epoch {
		return false
	}
	f, isFact := n.self.(interface{ empty() bool })
	return !isFact || f.empty()
}
