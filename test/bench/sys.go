package main

import (
	"syscall"
	"unsafe"
)

// The calls below do not tell the scheduler: a loop that owns its thread and
// does nothing else pays for nothing else.

// epollWait waits at most wait nanoseconds, for ever if negative.
func epollWait(epoll int, events []syscall.EpollEvent, wait int64) (int, error) {
	var limit *syscall.Timespec
	if wait >= 0 {
		t := syscall.NsecToTimespec(wait)
		limit = &t
	}
	for {
		n, _, e := syscall.RawSyscall6(sysEpollPwait2, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
			uintptr(unsafe.Pointer(limit)), 0, 0)
		if e == syscall.EINTR {
			if wait >= 0 {
				return 0, nil
			}
			continue
		}
		if e != 0 {
			return 0, e
		}
		return int(n), nil
	}
}

// sysEpollPwait2 has one number on all architectures (Linux 5.11).
const sysEpollPwait2 = 441

func rawRead(fd int, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func rawWrite(fd int, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), syscall.MSG_NOSIGNAL, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// outbox holds bytes that a socket has not taken yet.
type outbox struct {
	b    []byte
	sent int // of b
}

func (o *outbox) add(b ...byte) { o.b = append(o.b, b...) }

func (o *outbox) empty() bool { return o.sent == len(o.b) }

// flush writes what the socket takes; what is left waits for the next call.
func (o *outbox) flush(write func([]byte) (int, error)) error {
	for !o.empty() {
		n, err := write(o.b[o.sent:])
		if err == syscall.EAGAIN {
			return nil
		}
		if err != nil {
			return err
		}
		o.sent += n
	}
	o.b, o.sent = o.b[:0], 0
	return nil
}
