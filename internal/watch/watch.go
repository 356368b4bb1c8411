// Package watch is the latest value of something, for many readers.
//
// In: values from one or more writers. Out: the newest value, and a signal
// when there is a newer one; what came between is lost on purpose.
//
// What does not belong here: queues, and anything that must see every value.
// Standard library only.
package watch

import "sync"

// Value holds the newest T. The zero Value holds the zero T. Safe for
// concurrent use; must not be copied.
type Value[T any] struct {
	mu      sync.Mutex
	v       T
	changed chan struct{}
}

// Set replaces the value and wakes all who wait.
func (v *Value[T]) Set(x T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.v = x
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}

// Get is the newest value, and a channel that is closed at the next Set.
func (v *Value[T]) Get() (T, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.v, v.changed
}
