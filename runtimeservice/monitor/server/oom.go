package server

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// oomKills reads how many processes the OOM killer has taken in a container's cgroup; ok is
// false where there is no cgroup, or none any more.
func oomKills(cgroups map[string]string) (kills uint64, ok bool) {
	file, dir := "memory.oom_control", cgroups["memory"]
	if dir == "" {
		file, dir = "memory.events", cgroups[""]
	}
	if dir == "" {
		return 0, false
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key == "oom_kill" {
			kills, err = strconv.ParseUint(value, 10, 64)
			return kills, err == nil
		}
	}
	return 0, false
}

// oomWatch keeps the counts of OOM kills as they rise. To read them when a container has
// ended may be too late: systemd removes the cgroup of a scope as soon as its last process
// has gone. On cgroup v2 all containers share one inotify instance, so that one costs a
// watch and neither a descriptor nor a goroutine; on v1 each has an eventfd.
type oomWatch struct {
	fd     int
	poller *poller

	mu     sync.Mutex
	counts map[int32]*oomCount
}

// oomCount is the count of one container.
type oomCount struct {
	paths map[string]string

	mu   sync.Mutex
	last uint64
	// expected is true on cgroup v1 between the kernel's word that it is out of memory
	// and the kill that follows it.
	expected bool

	// events are those of a cgroup v1; nil if there are none.
	events *oomEvents
}

// stop ends the watch, if the end of the cgroup has not; idempotent. The count can be read
// ever after.
func (c *oomCount) stop() {
	if c.events != nil {
		c.events.finish()
	}
}

func newOOMWatch(p *poller) (*oomWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &oomWatch{fd: fd, poller: p, counts: map[int32]*oomCount{}}
	if _, err := p.add(fd, w.ready); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch for OOM kills: %w", err)
	}
	return w, nil
}

// add begins to count. The count is good for reading also after an error.
func (w *oomWatch) add(paths map[string]string) (*oomCount, error) {
	count := &oomCount{paths: paths}
	if dir := paths["memory"]; dir != "" {
		if err := w.addV1(count, dir); err != nil {
			return count, fmt.Errorf("watch for OOM kills in cgroup %s: %w", dir, err)
		}
		return count, nil
	}
	dir := paths[""]
	if dir == "" {
		return count, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	wd, err := unix.InotifyAddWatch(w.fd, filepath.Join(dir, "memory.events"), unix.IN_MODIFY)
	if err != nil {
		return count, fmt.Errorf("watch for OOM kills in cgroup %s: %w", dir, err)
	}
	w.counts[int32(wd)] = count
	return count, nil
}

// ready reads what has happened. A watch goes by itself with its cgroup, which the kernel
// tells last.
func (w *oomWatch) ready() {
	var buf [64 * unix.SizeofInotifyEvent]byte // events of files have no names behind them
	for {
		n, err := unix.Read(w.fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < unix.SizeofInotifyEvent {
			return
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; at += unix.SizeofInotifyEvent {
			wd := int32(binary.NativeEndian.Uint32(buf[at:]))
			mask := binary.NativeEndian.Uint32(buf[at+4:])
			w.changed(wd, mask)
		}
	}
}

func (w *oomWatch) changed(wd int32, mask uint32) {
	w.mu.Lock()
	count := w.counts[wd]
	if mask&unix.IN_IGNORED != 0 {
		delete(w.counts, wd)
	}
	w.mu.Unlock()
	if count != nil {
		count.read()
	}
}

// read returns the highest count that was seen, and where the cgroup went before the kill
// could be seen that was expected, that one.
func (c *oomCount) read() uint64 {
	kills, ok := oomKills(c.paths)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok && c.expected {
		c.last++
	}
	if !ok || kills > c.last {
		c.expected = false
	}
	c.last = max(c.last, kills)
	return c.last
}
