package recall

// Facts are values by key that are set from outside. A key that was never set
// has the zero value, and reading it is recorded all the same.
type Facts[K comparable, V any] struct {
	book  *Book
	cells map[K]*fact[K, V]
}

type fact[K comparable, V any] struct {
	node
	in  *Facts[K, V]
	key K
	v   V
	set bool
}

// NewFacts makes an empty set of facts in b.
func NewFacts[K comparable, V any](b *Book) *Facts[K, V] {
	return &Facts[K, V]{book: b, cells: map[K]*fact[K, V]{}}
}

func (f *Facts[K, V]) cell(k K) *fact[K, V] {
	c := f.cells[k]
	if c == nil {
		c = &fact[K, V]{in: f, key: k}
		f.book.add(&c.node, c, clean)
		f.cells[k] = c
	}
	return c
}

// Get reads a fact. What it returns must not be modified.
func (f *Facts[K, V]) Get(k K) V {
	if f.book.doing == nil { // nobody to remember the absence for
		if c := f.cells[k]; c != nil {
			return c.v
		}
		var none V
		return none
	}
	c := f.cell(k)
	c.ask()
	return c.v
}

// Set changes a fact, whether or not the value is another one.
func (f *Facts[K, V]) Set(k K, v V) {
	c := f.cell(k)
	c.v, c.set = v, true
	c.stirUsers()
}

// Stir marks what has read a fact whose value is kept elsewhere and has changed
// there. Nobody pays for facts that nobody reads.
func (f *Facts[K, V]) Stir(k K) {
	if c := f.cells[k]; c != nil {
		c.stirUsers()
	}
}

// Delete makes a fact absent.
func (f *Facts[K, V]) Delete(k K) {
	c := f.cells[k]
	if c == nil {
		return
	}
	var none V
	c.v, c.set = none, false
	c.stirUsers()
	if len(c.users) == 0 && c.pins == 0 {
		c.forget()
		delete(f.book.nodes, &c.node)
	}
}

func (n *node) stirUsers() {
	for _, u := range n.users {
		u.n.stir(stale)
	}
}

func (c *fact[K, V]) renew() bool { return false }
func (c *fact[K, V]) empty() bool { return !c.set }
func (c *fact[K, V]) forget()     { delete(c.in.cells, c.key) }

// Table remembers the values of a function by key.
type Table[K comparable, V any] struct {
	book  *Book
	make  func(k K, old V) V
	same  func(a, b V) bool
	cells map[K]*row[K, V]
}

type row[K comparable, V any] struct {
	node
	in   *Table[K, V]
	key  K
	v    V
	have bool
}

// NewTable makes a Table of f. f is pure but for reading facts and tables of the
// same Book with Get; old is its last value for the key, or the zero value. same
// says when a new value need not stir who has read the old one, which is then
// kept; nil: never.
func NewTable[K comparable, V any](b *Book, f func(k K, old V) V, same func(a, b V) bool) *Table[K, V] {
	return &Table[K, V]{book: b, make: f, same: same, cells: map[K]*row[K, V]{}}
}

func (t *Table[K, V]) row(k K) *row[K, V] {
	r := t.cells[k]
	if r == nil {
		r = &row[K, V]{in: t, key: k}
		t.book.add(&r.node, r, stale)
		t.cells[k] = r
	}
	return r
}

// Get is the value for k, computed if need be. It must not be modified.
func (t *Table[K, V]) Get(k K) V {
	r := t.row(k)
	r.ask()
	return r.v
}

// Watch keeps the value for k and has wake called by Book.Woken when it may have
// changed. One watcher per key.
func (t *Table[K, V]) Watch(k K, wake func()) {
	r := t.row(k)
	r.wake, r.pins = wake, 1
}

// Unwatch ends a Watch.
func (t *Table[K, V]) Unwatch(k K) {
	if r := t.cells[k]; r != nil {
		r.wake, r.pins = nil, 0
	}
}

func (r *row[K, V]) renew() bool {
	v := r.in.make(r.key, r.v)
	if r.have && r.in.same != nil && r.in.same(r.v, v) {
		return false
	}
	r.v, r.have = v, true
	return true
}

func (r *row[K, V]) forget() { delete(r.in.cells, r.key) }
