package server

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// settleTime is how long after the kernel's word of being out of memory a kill can be
// expected that the count does not show yet. Memory may have been found after all, or the
// kill may have been in another cgroup below the same limit.
const settleTime = time.Second

// addV1 has the kernel tell of the OOM killer in a cgroup v1 (memory.oom_control of its
// cgroup-v1/memory documentation). It tells before it kills and counts, and once more some
// time after the cgroup has gone, which ends the watch.
func (w *oomWatch) addV1(count *oomCount, dir string) error {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	v := &oomEvents{count: count, fd: fd, end: func() {}}
	t, err := w.poller.add(fd, v.ready)
	if err != nil {
		unix.Close(fd)
		return err
	}
	v.mu.Lock()
	v.end = func() {
		w.poller.remove(fd, t)
		unix.Close(fd)
	}
	v.mu.Unlock()
	if err := askToBeTold(dir, fd, int(control.Fd())); err != nil {
		v.finish()
		return err
	}
	count.events = v
	return nil
}

func askToBeTold(dir string, eventfd, control int) error {
	requests, err := os.OpenFile(filepath.Join(dir, "cgroup.event_control"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer requests.Close()
	_, err = requests.WriteString(strconv.Itoa(eventfd) + " " + strconv.Itoa(control))
	return err
}

// oomEvents is the eventfd of one cgroup v1.
type oomEvents struct {
	count *oomCount
	fd    int

	mu    sync.Mutex
	end   func()
	ended bool
}

// ready is called when the kernel has something to tell.
func (v *oomEvents) ready() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return
	}
	var told [8]byte
	if _, err := unix.Read(v.fd, told[:]); err != nil {
		return
	}
	if _, ok := oomKills(v.count.paths); !ok {
		v.close()
		return
	}
	v.count.expect()
}

func (v *oomEvents) finish() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.close()
}

func (v *oomEvents) close() {
	if !v.ended {
		v.ended = true
		v.end()
	}
}

// expect is called when the kernel is about to kill. Whether it did is seen after a while,
// if the cgroup is there for so long.
func (c *oomCount) expect() {
	c.mu.Lock()
	before := c.last
	c.expected = true
	c.mu.Unlock()
	c.read()
	time.AfterFunc(settleTime, func() {
		if _, ok := oomKills(c.paths); !ok {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.last == before {
			c.expected = false
		}
	})
}
