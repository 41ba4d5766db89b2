package server

import (
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

	mu      sync.Mutex
	watched map[int32]func() // what reads the counts again, by watch
	parents map[string]*oomParent
}

// oomCount is the count of one container.
type oomCount struct {
	paths map[string]string
	// parent is the cgroup v2 above; nil if there is none that counts.
	parent *oomParent

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
	if c.parent != nil {
		c.parent.remove(c)
	}
}

func newOOMWatch(p *poller) (*oomWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &oomWatch{fd: fd, poller: p, watched: map[int32]func(){}, parents: map[string]*oomParent{}}
	if _, err := p.add(fd, w.ready); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch for OOM kills: %w", err)
	}
	return w, nil
}

// add begins to count. The count is good for reading also after an error.
func (w *oomWatch) add(paths map[string]string) (*oomCount, error) {
	count := &oomCount{paths: paths}
	var err error
	dir := paths["memory"]
	if dir != "" {
		err = w.addV1(count, dir)
	} else if dir = paths[""]; dir != "" {
		err = w.addV2(count, dir)
	}
	if err != nil {
		return count, fmt.Errorf("watch for OOM kills in cgroup %s: %w", dir, err)
	}
	return count, nil
}

// read returns the highest count that was seen, or can be concluded where the cgroup went
// before the last kill could be seen.
func (c *oomCount) read() uint64 {
	if c.parent != nil {
		c.parent.settle()
		return c.known()
	}
	kills, _ := c.readOwn()
	return kills
}

func (c *oomCount) known() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// readOwn reads the container's own cgroup; ok is false if it is gone. Where that of v1 went
// before the kill could be seen that was expected, there was that one.
func (c *oomCount) readOwn() (highest uint64, ok bool) {
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
	return c.last, ok
}
