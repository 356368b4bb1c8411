//go:build linux

package loop

import (
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	eventBatch = 64       // events taken at once
	scratch    = 64 << 10 // one read
	sealStep   = 48 << 10 // plain bytes sealed at a time
	postLimit  = 1 << 16  // functions waiting in Post
	flushLimit = 4096     // connections flushed per round
	// lazyBatch is how many lazy connections wait for each other. Who is sent
	// to while it sleeps must be woken, which costs as much as half of the
	// sending; who gets several things at once is woken for the first.
	lazyBatch = 16
	// A round takes under 1 ms: it ends after roundTime, by a clock that is read
	// after every roundStep things that were done, so that each kind of them goes
	// on. What is left is done in the next, after what had to be done anyway.
	roundTime = int64(400 * time.Microsecond)
	roundStep = 4
)

// base is the zero of Now, common to all loops.
var base = time.Now().Add(-time.Second)

// Nanotime returns the loops' clock (see Loop.Now), read anew. From anywhere.
func Nanotime() int64 { return int64(time.Since(base)) }

// Loop is one event loop. Its connections, timers and buffers belong to it.
// Except Post, Load, ID and Now's package form nothing may be called from
// other goroutines once the group runs.
type Loop struct {
	owner
	id    int
	group *Group

	epfd, efd int
	outer     *os.File // see newLoop
	outfd     int
	rc        syscall.RawConn
	armed     bool // outer tells the netpoller of events
	pollFn    func(uintptr) bool
	evs       [eventBatch]unix.EpollEvent
	evn, evi  int

	slots []slot
	free  []int32

	now      int64
	wall     time.Time
	wallAt   int64
	wheel    wheel
	deadline int64 // of the netpoller's read deadline; 0: none set
	yielded  int64 // when others were let run

	cur      *Conn // whose event is being handled
	also     *Conn // for whom something is done in it, see Blame
	rb       []byte
	sealed   []byte // cipher scratch
	opening  *Conn  // whose bytes its sealer is opening
	openFn   func([]byte)
	trash    []byte // lent to dead connections
	iov      [2]unix.Iovec
	msg      unix.Msghdr
	bufs     buffers
	trim     Timer // of bufs
	trimFn   func()
	pipes    pipes
	eager    []*Conn // to flush after the event
	lazy     []*Conn // to flush after some events, at the latest after the round
	ready    []*Conn // to continue after the events
	doing    []*Conn
	doingAt  int
	nexts    []func() // Next
	running  []func()
	runAt    int
	rng      rand.PCG
	stopping bool // leave run
	last     bool // rounds end when all is done
	closing  bool // no new connections
	conns    int

	load, expected  atomic.Int32
	connCount       atomic.Int32
	busySince, idle int64 // for the work indicator
	busy            int32 // per mille, smoothed
	spent           spent

	spare []func()
	mu    sync.Mutex
	posts []func()
	ended bool
}

// slot is where an event finds its connection; gen tells stale events.
type slot struct {
	conn  *Conn
	watch *Watch
	gen   int32
}

const wakeSlot = -1

// newLoop makes a loop with two epoll sets, one in the other. The runtime's
// netpoller watches the outer one, which looks at the inner one only while the
// loop sleeps: else every event of a busy loop would wake an idle thread.
func newLoop(g *Group, id int) (*Loop, error) {
	l := &Loop{group: g, id: id, epfd: -1, efd: -1, outfd: -1, rb: make([]byte, scratch),
		sealed: make([]byte, 0, scratch), trash: make([]byte, 0, 256)}
	l.rng = *rand.NewPCG(rand.Uint64(), rand.Uint64())
	var err error
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if l.efd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		l.release()
		return nil, err
	}
	// Edge-triggered: each write is an event, nobody needs to read.
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: wakeSlot}
	if err = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, l.efd, &ev); err != nil {
		l.release()
		return nil, err
	}
	if err = l.nest(); err != nil {
		l.release()
		return nil, err
	}
	l.pollFn = func(uintptr) bool { l.poll(); return l.evn > 0 }
	l.openFn = func(p []byte) { l.opening.opened(p) }
	l.trimFn = func() {
		bufs, pipes := l.bufs.trim(), l.pipes.trim()
		if bufs || pipes {
			l.Arm(&l.trim, bufQuiet, l.trimFn)
		}
	}
	l.now = Nanotime()
	l.wheel.cur = l.now / int64(tick)
	l.busySince = l.now
	return l, nil
}

// nest makes the outer epoll set and has the netpoller watch it.
func (l *Loop) nest() (err error) {
	if l.outfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if err = unix.EpollCtl(l.outfd, unix.EPOLL_CTL_ADD, l.epfd, &unix.EpollEvent{}); err != nil {
		return err
	}
	// A non-blocking descriptor is watched by the runtime's netpoller.
	if err = unix.SetNonblock(l.outfd, true); err != nil {
		return err
	}
	l.outer = os.NewFile(uintptr(l.outfd), "epoll")
	if l.rc, err = l.outer.SyscallConn(); err != nil {
		return err
	}
	return l.outer.SetReadDeadline(time.Time{}) // fails when it is not watched
}

// arm has events wake the netpoller, or not.
func (l *Loop) arm(on bool) error {
	if l.armed == on {
		return nil
	}
	var ev unix.EpollEvent
	if on {
		ev.Events = unix.EPOLLIN
	}
	l.armed = on
	return unix.EpollCtl(l.outfd, unix.EPOLL_CTL_MOD, l.epfd, &ev)
}

// release closes the loop's own descriptors.
func (l *Loop) release() {
	l.pipes.close()
	if l.outer != nil {
		_ = l.outer.Close() // closes outfd
	} else if l.outfd >= 0 {
		_ = unix.Close(l.outfd)
	}
	for _, fd := range []int{l.epfd, l.efd} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	l.epfd, l.efd, l.outfd, l.outer = -1, -1, -1, nil
}

// ID is the loop's index in its group.
func (l *Loop) ID() int { return l.id }

// Group returns the loop's group.
func (l *Loop) Group() *Group { return l.group }

// Now is the monotonic clock in nanoseconds, read once per round; never 0.
func (l *Loop) Now() int64 { return l.now }

// Wall is the time of day, read at most once per round.
func (l *Loop) Wall() time.Time {
	if l.wallAt != l.now {
		l.wall, l.wallAt = time.Now(), l.now
	}
	return l.wall
}

// Load indicates how much work the loop has: its connections, and how busy it
// has been lately. Only comparisons between loops have a meaning. Safe from
// everywhere.
func (l *Loop) Load() int32 { return l.load.Load() + l.expected.Load() }

// Expect counts a connection that is on its way to the loop (+1), or has come
// (-1), so that several which are placed at once spread. Safe from everywhere.
func (l *Loop) Expect(n int32) { l.expected.Add(n) }

// Conns returns how many connections are open on the loop. Safe from
// everywhere.
func (l *Loop) Conns() int { return int(l.connCount.Load()) }

// Rand returns a pseudo-random number; not for secrets.
func (l *Loop) Rand() uint64 { l.check(); return l.rng.Uint64() }

// Arm makes t call fn after d, at the earliest, within 10 ms or what the round
// takes. An armed timer is set anew. fn should be made once and kept: a
// method value made here would allocate. A nil fn stops t.
func (l *Loop) Arm(t *Timer, d time.Duration, fn func()) {
	l.check()
	if fn == nil {
		t.Stop()
		return
	}
	when := never / int64(tick) / 2
	if d = max(d, 0); int64(d) < never/2-l.now {
		when = (l.now + int64(d) + int64(tick) - 1) / int64(tick)
	}
	t.fn = fn
	if t.wheel != nil {
		if t.when == when { // an idle timeout that is moved with every event
			return
		}
		t.wheel.remove(t)
	}
	l.wheel.add(t, when)
}

// Post has fn run on the loop, soon and in order. Safe from everywhere. It
// reports false, and fn never runs, when the loop has ended or far too many
// wait already. Functions still waiting when the loop ends are run before its
// connections are closed.
func (l *Loop) Post(fn func()) bool {
	l.mu.Lock()
	if l.ended || len(l.posts) >= postLimit {
		l.mu.Unlock()
		return false
	}
	l.posts = append(l.posts, fn)
	wake := len(l.posts) == 1
	if wake { // under the lock: the descriptor must still be open
		l.wake()
	}
	l.mu.Unlock()
	return true
}

// Blame says on whose behalf something is done in the present event, which may
// be another connection's, or nobody's: a timer without Owner, or what was
// posted. If it panics, c is closed too.
func (l *Loop) Blame(c *Conn) { l.also = c }

// Next has fn run on this loop, from which it must be called, after the
// present round's events.
func (l *Loop) Next(fn func()) {
	l.check()
	l.nexts = append(l.nexts, fn)
}

func (l *Loop) wake() {
	one := [8]byte{0: 1}
	if l.efd >= 0 {
		_, _ = unix.Write(l.efd, one[:]) // full only after 2^64 writes
	}
}

// end asks the loop to end.
func (l *Loop) end() {
	if !l.Post(func() { l.stopping = true }) { // queue full
		l.mu.Lock()
		if !l.ended {
			l.posts = append(l.posts, func() { l.stopping = true })
			l.wake()
		}
		l.mu.Unlock()
	}
}

// run works until end.
func (l *Loop) run() error {
	l.take()
	defer l.shutdown()
	for !l.stopping {
		if err := l.wait(); err != nil {
			return err
		}
		for !l.round() {
		}
	}
	return nil
}

// shutdown closes what is open and tells the codecs.
func (l *Loop) shutdown() {
	l.mu.Lock()
	l.ended, l.last = true, true
	l.nexts = append(l.nexts, l.posts...)
	l.posts = nil
	l.mu.Unlock()
	l.evi, l.evn = 0, 0
	for !l.round() {
	}
	l.closing = true
	for i := range l.slots {
		if w := l.slots[i].watch; w != nil {
			w.Close()
		}
		if c := l.slots[i].conn; c != nil {
			c.kill(ErrEnded)
		}
	}
	// Codecs may close others and post more; what they leave is dropped.
	for range 16 {
		for !l.round() {
		}
	}
	l.mu.Lock()
	l.release()
	l.mu.Unlock()
}

func (l *Loop) poll() {
	l.evi = 0
	n, e := sysEpollWait(l.epfd, l.evs[:])
	if e != 0 {
		n = 0
	}
	l.evn = n
}

// yieldEvery is how long a loop that never sleeps works before it lets others
// run: it costs a thread's waking each time.
const yieldEvery = int64(5 * time.Millisecond)

// wait gets the next events. It blocks in the netpoller only when there are
// none and nothing else is to be done.
func (l *Loop) wait() error {
	if l.evi == l.evn {
		l.poll()
	}
	if l.unfinished() {
		// More came before all was done: it is no use waking anyone.
		if err := l.arm(false); err != nil {
			return err
		}
		l.worked(Nanotime())
		if l.now-l.yielded > yieldEvery {
			l.yielded = l.now
			runtime.Gosched()
		}
		l.measure(l.now, l.now)
		return nil
	}
	slept := Nanotime()
	l.worked(slept)
	due, err := l.setDeadline(slept)
	if err != nil {
		return err
	}
	if !due {
		if err := l.arm(true); err != nil {
			return err
		}
		if err := l.rc.Read(l.pollFn); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	l.now = Nanotime()
	l.yielded = l.now
	l.measure(slept, l.now)
	return nil
}

// setDeadline makes the netpoller wake us for the next timer, or reports that
// it is due. A deadline that is too early is left: it costs one idle round and
// saves a change for each timer that is armed and stopped again.
func (l *Loop) setDeadline(now int64) (due bool, err error) {
	next := l.wheel.nextTick()
	if next == never {
		if l.deadline == 0 || l.deadline > now {
			return false, nil
		}
		l.deadline = 0
		return false, l.outer.SetReadDeadline(time.Time{})
	}
	at := next * int64(tick)
	if at <= now {
		return true, nil
	}
	if l.deadline > now && l.deadline <= at {
		return false, nil
	}
	l.deadline = at
	return false, l.outer.SetReadDeadline(base.Add(time.Duration(at)))
}

// RoundBounds are what rounds of the loops are counted by; see Group.Spent.
var RoundBounds = [...]time.Duration{100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond,
	2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond}

// spent counts the rounds in which a loop did something.
type spent struct {
	busy   atomic.Int64 // ns
	rounds [len(RoundBounds) + 1]atomic.Uint64
}

// worked ends a round: the clock goes on.
func (l *Loop) worked(now int64) {
	d := now - l.now
	l.now = now
	s := &l.spent
	s.busy.Add(d)
	i := 0
	for i < len(RoundBounds) && d > int64(RoundBounds[i]) {
		i++
	}
	s.rounds[i].Add(1)
}

// Spent says how long loops have worked, and in how many rounds: how many took
// at most each of RoundBounds and longer than the one before, and, last, longer
// than all. What waits for a loop waits for its round. The time is the clock's,
// so that of a machine with too few processors shows too; the CPU's own costs a
// system call of a microsecond each time. Safe from everywhere.
func (g *Group) Spent() (busy time.Duration, rounds [len(RoundBounds) + 1]uint64) {
	for _, l := range g.loops {
		busy += time.Duration(l.spent.busy.Load())
		for i := range rounds {
			rounds[i] += l.spent.rounds[i].Load()
		}
	}
	return busy, rounds
}

// measure keeps the work indicator: the loop slept from one time to another.
func (l *Loop) measure(from, to int64) {
	l.idle += to - from
	span := to - l.busySince
	if span < int64(100*time.Millisecond) {
		return
	}
	l.busy = (l.busy + int32((span-l.idle)*1000/span)) / 2
	l.busySince, l.idle = to, 0
	l.setLoad()
}

func (l *Loop) setLoad() {
	l.connCount.Store(int32(l.conns))
	l.load.Store(int32(l.conns) + l.busy/4)
}

// round does everything that is to be done once. It returns false when
// something panicked and the rest is still to be done.
func (l *Loop) round() (done bool) {
	defer func() {
		if !done {
			l.recovered(recover())
		}
	}()
	for n := 1; l.evi < l.evn; n++ {
		ev := &l.evs[l.evi]
		l.evi++
		l.dispatch(ev)
		l.flush(&l.eager)
		if len(l.lazy) >= lazyBatch {
			l.flush(&l.lazy)
		}
		if l.enough(n) {
			break
		}
	}
	for {
		t := l.wheel.pop(l.now / int64(tick))
		if t == nil {
			break
		}
		fn := t.fn
		t.fn = nil
		l.cur, l.also = t.Owner, nil
		fn()
		l.flush(&l.eager)
	}
	l.cur = nil
	if l.runAt == len(l.running) {
		clear(l.running)
		l.running, l.nexts, l.runAt = l.nexts, l.running[:0], 0
	}
	for n := 1; l.runAt < len(l.running); n++ {
		fn := l.running[l.runAt]
		l.running[l.runAt] = nil
		l.runAt++
		l.also = nil
		fn()
		l.cur = nil
		l.flush(&l.eager)
		if l.enough(n) {
			break
		}
	}
	if l.doingAt == len(l.doing) {
		clear(l.doing)
		l.doing, l.ready, l.doingAt = l.ready, l.doing[:0], 0
	}
	for n := 1; l.doingAt < len(l.doing); n++ {
		c := l.doing[l.doingAt]
		l.doingAt++
		l.cur, l.also = c, nil
		c.proceed()
		l.flush(&l.eager)
		if l.enough(n) {
			break
		}
	}
	l.flush(&l.lazy)
	l.flush(&l.eager)
	l.cur = nil
	return true
}

// enough says after n things of a kind that a round has lasted long enough.
func (l *Loop) enough(n int) bool {
	return n%roundStep == 0 && !l.last && Nanotime()-l.now > roundTime
}

// unfinished reports whether there is something to do without an event.
func (l *Loop) unfinished() bool {
	return l.evi < l.evn || l.runAt < len(l.running) || l.doingAt < len(l.doing) ||
		len(l.ready)+len(l.lazy)+len(l.eager)+len(l.nexts) > 0
}

// recovered ends a panic: the connection at work is closed.
func (l *Loop) recovered(what any) {
	c, also := l.cur, l.also
	l.cur, l.also = nil, nil
	if what == nil {
		return // Goexit: not ours to stop
	}
	l.group.report(l.id, what)
	for _, c := range [...]*Conn{also, c} {
		if c != nil && c.loop == l {
			c.kill(ErrPanic)
		}
	}
}

func (l *Loop) dispatch(ev *unix.EpollEvent) {
	if ev.Fd == wakeSlot {
		l.takePosts()
		return
	}
	s := &l.slots[ev.Fd]
	if s.gen != ev.Pad {
		return // of a connection that is gone
	}
	if c := s.conn; c != nil {
		l.cur, l.also = c, nil
		c.event(ev.Events)
		l.cur = nil
	} else if w := s.watch; w != nil {
		l.also = nil
		w.fn(ev.Events)
	}
}

// takePosts moves what was posted to what runs in this round.
func (l *Loop) takePosts() {
	l.mu.Lock()
	posts := l.posts
	l.posts = l.spare[:0]
	l.mu.Unlock()
	l.nexts = append(l.nexts, posts...)
	clear(posts)
	l.spare = nil
	if cap(posts) <= 1024 {
		l.spare = posts
	}
}

// flush sends what the listed connections have pending. Connections may be
// added while it works.
func (l *Loop) flush(list *[]*Conn) {
	if len(*list) == 0 {
		return
	}
	n := 0
	for n < len(*list) && n < flushLimit {
		c := (*list)[n]
		(*list)[n] = nil
		n++
		if c == nil {
			continue // was flushed before a panic
		}
		c.dirty = false
		prev, also := l.cur, l.also
		l.cur, l.also = c, nil
		c.flush()
		l.cur, l.also = prev, also
	}
	rest := copy(*list, (*list)[n:])
	clear((*list)[rest:])
	*list = (*list)[:rest]
}

// enter registers fd, edge-triggered.
func (l *Loop) enter(fd int, events uint32, c *Conn, w *Watch) (int32, error) {
	var i int32
	if n := len(l.free); n > 0 {
		i = l.free[n-1]
	} else {
		i = int32(len(l.slots))
		l.slots = append(l.slots, slot{})
		l.free = append(l.free, i)
	}
	s := &l.slots[i]
	ev := unix.EpollEvent{Events: events, Fd: i, Pad: s.gen}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return -1, err
	}
	l.free = l.free[:len(l.free)-1]
	s.conn, s.watch = c, w
	return i, nil
}

func (l *Loop) leave(i int32) {
	s := &l.slots[i]
	s.conn, s.watch = nil, nil
	s.gen++
	l.free = append(l.free, i)
}

// Buffer lends an empty buffer with room for n bytes. Whoever took it owns it
// until Recycle, or for ever.
func (l *Loop) Buffer(n int) []byte { return l.bufs.get(n) }

// Recycle takes back a buffer that nobody uses any longer, the loop's or not.
func (l *Loop) Recycle(p []byte) { l.recycle(p) }

// Watch is a descriptor other than a connection's (a listening socket, say)
// that a loop waits for.
type Watch struct {
	loop *Loop
	slot int32
	fd   int
	fn   func(events uint32)
}

// Watch calls fn with epoll events (EPOLLIN and the like, level-triggered
// unless EPOLLET is among events) for fd, which stays the caller's.
func (l *Loop) Watch(fd int, events uint32, fn func(events uint32)) (*Watch, error) {
	l.check()
	w := &Watch{loop: l, fd: fd, fn: fn}
	var err error
	w.slot, err = l.enter(fd, events, nil, w)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// Close ends the watching; the descriptor stays open.
func (w *Watch) Close() {
	w.loop.check()
	if w.slot < 0 {
		return
	}
	_ = unix.EpollCtl(w.loop.epfd, unix.EPOLL_CTL_DEL, w.fd, nil) // closed already: gone anyway
	w.loop.leave(w.slot)
	w.slot = -1
}
