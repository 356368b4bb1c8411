// Package recall remembers what pure functions returned, and which facts they
// read on the way, so that a changed fact costs what depends on it.
//
// In: facts, set by key, and functions of a key (Table), which read facts and
// other tables through Get. Out: their values, computed when asked for and kept
// until something that was read has changed. Reads are recorded by Get itself,
// absent facts too. A function whose new value is the same as its old one stirs
// nobody further up.
//
// A changed fact marks what depends on it, and wakes what is watched; nothing is
// computed before somebody asks. Sweep forgets what nobody reads any more.
//
// What does not belong here: what the facts mean. A Book is used by one
// goroutine at a time: Do.
package recall
