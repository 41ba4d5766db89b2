package server

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// poller is one epoll instance for the pidfds and the output of all
// containers, so that an idle container costs no goroutine and no buffer.
// Events are edge-triggered.
type poller struct {
	epfd int
	wake int
	// stopped is closed when run has returned.
	stopped chan struct{}

	mu       sync.Mutex
	last     uint64
	handlers map[uint64]func()
}

// token names a registration; it is never used twice, so that an event that
// was under way when a descriptor was closed finds nobody.
type token uint64

func newPoller() (*poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epfd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	p := &poller{epfd: epfd, wake: wake, stopped: make(chan struct{}), handlers: map[uint64]func(){}}
	if err := p.control(unix.EPOLL_CTL_ADD, wake, 0); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *poller) control(op, fd int, t token) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(uint32(t)), Pad: int32(t >> 32)}
	if err := unix.EpollCtl(p.epfd, op, fd, &event); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// add calls ready, which must not block, whenever something new happens to fd,
// and once if it already has.
func (p *poller) add(fd int, ready func()) (token, error) {
	p.mu.Lock()
	p.last++
	t := token(p.last)
	p.handlers[uint64(t)] = ready
	p.mu.Unlock()
	if err := p.control(unix.EPOLL_CTL_ADD, fd, t); err != nil {
		p.mu.Lock()
		delete(p.handlers, uint64(t))
		p.mu.Unlock()
		return 0, fmt.Errorf("watch descriptor: %w", err)
	}
	return t, nil
}

// remove ends a registration. It has to come before fd is closed: berthd holds
// duplicates, and those would keep it alive.
func (p *poller) remove(fd int, t token) {
	if t == 0 {
		return
	}
	_ = p.control(unix.EPOLL_CTL_DEL, fd, t)
	p.mu.Lock()
	delete(p.handlers, uint64(t))
	p.mu.Unlock()
}

// run dispatches events until stop.
func (p *poller) run() {
	defer close(p.stopped)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(p.epfd, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			panic(os.NewSyscallError("epoll_wait", err))
		}
		for _, e := range events[:n] {
			t := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			if t == 0 {
				return
			}
			p.mu.Lock()
			ready := p.handlers[t]
			p.mu.Unlock()
			if ready != nil {
				ready()
			}
		}
	}
}

// stop makes run return.
func (p *poller) stop() {
	_, _ = unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// worker runs a function in a goroutine that exists only while there is
// something to do; kicks that come meanwhile make it run once more.
type worker struct {
	state atomic.Int32
}

const (
	workerIdle int32 = iota
	workerRunning
	workerAgain
)

func (w *worker) kick(work func()) {
	for {
		switch {
		case w.state.CompareAndSwap(workerIdle, workerRunning):
			go w.loop(work)
			return
		case w.state.CompareAndSwap(workerRunning, workerAgain), w.state.Load() == workerAgain:
			return
		}
	}
}

func (w *worker) loop(work func()) {
	for {
		work()
		if w.state.CompareAndSwap(workerRunning, workerIdle) {
			return
		}
		w.state.Store(workerRunning)
	}
}
