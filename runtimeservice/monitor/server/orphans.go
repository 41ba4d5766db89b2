package server

import (
	"os"
	"os/signal"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// orphans reaps processes that became children of the monitor because their
// parent ended: those of containers in the node's PID namespace.
//
// libcontainer and os/exec wait for their own children by PID, and must not
// find them gone. So a zombie that nobody has registered is only reaped when
// every start and exec that was under way when it was first seen has finished:
// a process of theirs is either reaped or registered by then.
type orphans struct {
	known func(pid int) bool

	mu     sync.Mutex
	last   uint64
	active map[uint64]struct{}

	wake chan os.Signal
}

func newOrphans(known func(int) bool) *orphans {
	return &orphans{known: known, active: map[uint64]struct{}{}, wake: make(chan os.Signal, 1)}
}

// begin is called before a process is started, finish after it is registered.
func (o *orphans) begin() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last++
	o.active[o.last] = struct{}{}
	return o.last
}

func (o *orphans) finish(ticket uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.active, ticket)
}

// settled reports whether all that had begun by the given ticket has finished.
func (o *orphans) settled(ticket uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for t := range o.active {
		if t <= ticket {
			return false
		}
	}
	return true
}

func (o *orphans) ticket() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// orphanInterval is how long a zombie that may be somebody's is left alone
// before it is looked at again.
const orphanInterval = 200 * time.Millisecond

// run reaps until stop is closed.
func (o *orphans) run(stop <-chan struct{}) {
	signal.Notify(o.wake, unix.SIGCHLD)
	defer signal.Stop(o.wake)
	for {
		select {
		case <-o.wake:
		case <-stop:
			return
		}
		var seen int
		var when uint64
		for {
			pid := zombie()
			if pid == 0 {
				break
			}
			if pid != seen {
				seen, when = pid, o.ticket()
			}
			if !o.known(pid) && o.settled(when) && !o.known(pid) {
				reapPid(pid)
				continue
			}
			select {
			case <-time.After(orphanInterval):
			case <-stop:
				return
			}
		}
	}
}

// zombie returns a child that has ended, or 0.
func zombie() int {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		return 0
	}
	type childInfo struct {
		signo, errno, code, _, pid int32
	}
	return int((*childInfo)(unsafe.Pointer(&info)).pid)
}

func reapPid(pid int) {
	_ = unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG, nil)
}
