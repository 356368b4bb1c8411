package telemetry

import (
	"bytes"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// ringSize of one loop's ring for one file, in bytes. A power of two.
const ringSize = 256 << 10

// batch is how long the writer waits for more after it was woken.
const batch = 10 * time.Millisecond

// ring of bytes with one writer (its loop) and one reader (the goroutine of
// logs). Invariant: tail-head <= len(buf); both only grow.
type ring struct {
	buf  []byte
	head atomic.Uint64 // read up to here
	_    [56]byte
	tail atomic.Uint64 // written up to here
	_    [56]byte
}

// put copies p unless it does not fit.
func (r *ring) put(p []byte) bool {
	t := r.tail.Load()
	if uint64(len(r.buf))-(t-r.head.Load()) < uint64(len(p)) {
		return false
	}
	i := int(t) & (len(r.buf) - 1)
	n := copy(r.buf[i:], p)
	copy(r.buf, p[n:])
	r.tail.Store(t + uint64(len(p)))
	return true
}

// drain gives what is there to f, in one or two pieces.
func (r *ring) drain(f func([]byte)) {
	h, t := r.head.Load(), r.tail.Load()
	for h < t {
		i := int(h) & (len(r.buf) - 1)
		n := min(len(r.buf)-i, int(t-h))
		f(r.buf[i : i+n])
		h += uint64(n)
		r.head.Store(h)
	}
}

// sink is one file with a ring per loop.
type sink struct {
	path  string
	rings []atomic.Pointer[ring]
	out   io.Writer // of the writer goroutine; nil: not open
	next  time.Time // no attempt to open before
	skip  bool      // up to the end of a line whose beginning was lost
	mid   bool      // the last line written has no end
	torn  bool      // and will have none
}

// logs writes access logs.
type logs struct {
	mu      sync.Mutex
	sinks   map[string]*sink
	all     atomic.Pointer[[]*sink]
	loops   []loopLogs
	asleep  atomic.Bool
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}
	dropped atomic.Uint64
	open    func(path string) (io.Writer, error)
}

// loopLogs is owned by its loop.
type loopLogs struct {
	lines map[*conf.AccessLog]*loopLog
	buf   []byte
	_     [24]byte
}

type loopLog struct {
	line *Line // nil: does not compile; conf refuses such
	ring *ring
}

func (l *logs) start(loops int) {
	l.sinks, l.loops = map[string]*sink{}, make([]loopLogs, loops)
	l.wake, l.quit, l.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	l.all.Store(&[]*sink{})
	if l.open == nil {
		l.open = openLog
	}
	go l.run()
}

func openLog(path string) (io.Writer, error) {
	switch path {
	case "/dev/stdout":
		return os.Stdout, nil
	case "/dev/stderr":
		return os.Stderr, nil
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
}

// write puts a record into its logs; on the loop.
func (l *logs) write(loop int, r *Record, cs []*conf.AccessLog) {
	if len(cs) == 0 {
		return
	}
	ll := &l.loops[loop]
	for _, c := range cs {
		x := ll.lines[c]
		if x == nil {
			x = l.prepare(ll, loop, c)
		}
		if x.line == nil || !x.line.Wants(r) {
			continue
		}
		ll.buf = x.line.Append(ll.buf[:0], r)
		if !x.ring.put(ll.buf) {
			l.dropped.Add(1)
			continue
		}
		if l.asleep.Load() && l.asleep.CompareAndSwap(true, false) {
			select {
			case l.wake <- struct{}{}:
			default:
			}
		}
	}
	if cap(ll.buf) > 64<<10 {
		ll.buf = nil
	}
}

// prepare compiles a log for a loop, once per configuration. Old ones are
// forgotten together: they cost little and come back when needed.
func (l *logs) prepare(ll *loopLogs, loop int, c *conf.AccessLog) *loopLog {
	if ll.lines == nil || len(ll.lines) > 1024 {
		ll.lines = map[*conf.AccessLog]*loopLog{}
	}
	x := &loopLog{}
	if line, err := Compile(c); err == nil {
		x.line = line
		x.ring = l.ring(c.Path, loop)
	}
	ll.lines[c] = x
	return x
}

func (l *logs) ring(path string, loop int) *ring {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sinks[path]
	if s == nil {
		s = &sink{path: path, rings: make([]atomic.Pointer[ring], len(l.loops))}
		l.sinks[path] = s
		list := append(append([]*sink(nil), *l.all.Load()...), s)
		l.all.Store(&list)
	}
	r := s.rings[loop].Load()
	if r == nil {
		r = &ring{buf: make([]byte, ringSize)}
		s.rings[loop].Store(r)
	}
	return r
}

// run is the goroutine that writes.
func (l *logs) run() {
	defer close(l.done)
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		l.asleep.Store(true)
		if l.flush() {
			// something came between the last flush and falling asleep
			l.asleep.Store(false)
		} else {
			select {
			case <-l.wake:
			case <-l.quit:
				l.flush()
				l.closeFiles()
				return
			}
		}
		t.Reset(batch)
		select {
		case <-t.C:
		case <-l.quit:
		}
	}
}

// flush writes what is in the rings; it reports whether there was anything.
func (l *logs) flush() bool {
	any := false
	for _, s := range *l.all.Load() {
		for i := range s.rings {
			if r := s.rings[i].Load(); r != nil {
				r.drain(func(p []byte) {
					any = true
					l.out(s, p)
				})
			}
		}
	}
	return any
}

// out writes to the file, opening it first; what cannot be written is lost.
func (l *logs) out(s *sink, p []byte) {
	if s.out == nil {
		if now := time.Now(); now.After(s.next) {
			w, err := l.open(s.path)
			if err != nil {
				s.next = now.Add(time.Second)
			} else {
				s.out = w
			}
		}
	}
	if s.out == nil {
		l.lose(s, p)
		return
	}
	if s.skip {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			return
		}
		l.dropped.Add(1)
		if p, s.skip = p[i+1:], false; len(p) == 0 {
			return
		}
	}
	if s.torn {
		if _, err := s.out.Write(newline); err != nil {
			l.lose(s, p)
			return
		}
		s.torn, s.mid = false, false
	}
	n, err := s.out.Write(p)
	if n > 0 {
		s.mid = p[n-1] != '\n'
	}
	if err != nil {
		s.torn = s.mid
		l.lose(s, p[n:])
	}
}

// lose counts the lines that end in p. The rest of one that does not is not
// written either.
func (l *logs) lose(s *sink, p []byte) {
	l.dropped.Add(uint64(bytes.Count(p, newline)))
	s.skip = len(p) > 0 && p[len(p)-1] != '\n'
}

var newline = []byte{'\n'}

func (l *logs) closeFiles() {
	for _, s := range *l.all.Load() {
		if f, ok := s.out.(*os.File); ok && f != os.Stdout && f != os.Stderr {
			_ = f.Close()
		}
	}
}

// lastWords is how long the end waits for a file that takes nothing.
const lastWords = time.Second

func (l *logs) close() {
	close(l.quit)
	select {
	case <-l.done:
	case <-time.After(lastWords):
	}
}
