//go:build linux && tulle_debug

package loop

import (
	"bytes"
	"runtime"
	"strconv"
	"sync/atomic"
)

// owner is the goroutine that runs a loop.
type owner struct{ id atomic.Int64 }

func (o *owner) take() { o.id.Store(goroutineID()) }

// check panics when another goroutine than the owner calls.
func (o *owner) check() {
	if id := o.id.Load(); id != 0 && id != goroutineID() {
		panic("loop: called from goroutine " + strconv.FormatInt(goroutineID(), 10) +
			", owned by " + strconv.FormatInt(id, 10))
	}
}

// goroutineID reads the first line of the stack: "goroutine 7 [running]:".
func goroutineID() int64 {
	var b [64]byte
	s := bytes.TrimPrefix(b[:runtime.Stack(b[:], false)], []byte("goroutine "))
	n, _, _ := bytes.Cut(s, []byte(" "))
	id, _ := strconv.ParseInt(string(n), 10, 64)
	return id
}
