package server

import (
	"encoding/binary"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// addV2 has the kernel tell when memory.events of the cgroup changes.
func (w *oomWatch) addV2(count *oomCount, dir string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.watch(dir, func() { count.read() }); err != nil {
		return err
	}
	w.join(filepath.Dir(dir), count)
	return nil
}

// watch has read called when the counts of a cgroup have changed; mu is held.
func (w *oomWatch) watch(dir string, read func()) (wd int, err error) {
	wd, err = unix.InotifyAddWatch(w.fd, filepath.Join(dir, "memory.events"), unix.IN_MODIFY)
	if err == nil {
		w.watched[int32(wd)] = read
	}
	return wd, err
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
	read := w.watched[wd]
	if mask&unix.IN_IGNORED != 0 {
		delete(w.watched, wd)
	}
	w.mu.Unlock()
	if read != nil {
		read()
	}
}

// oomParent is the cgroup above those of containers, a pod's as a rule. The kernel counts a
// kill there too, before the process gets the signal, but tells of it up to 10 ms later. Till
// then systemd may have removed the container's cgroup; this one stays, and what it has more
// than the containers that are left was in the cgroup that has gone.
type oomParent struct {
	watch *oomWatch
	dir   string
	wd    uint32

	mu       sync.Mutex
	children map[*oomCount]struct{}
	// explained is how many of the cgroup's kills are known to be a container's, or of
	// nothing that is counted here.
	explained uint64
}

// join makes the count one of those below dir, if dir has counts; the watch's mu is held.
func (w *oomWatch) join(dir string, count *oomCount) {
	p := w.parents[dir]
	if p == nil {
		p = &oomParent{watch: w, dir: dir, children: map[*oomCount]struct{}{}}
		wd, err := w.watch(dir, p.settle)
		if err != nil {
			return
		}
		p.wd = uint32(wd)
		p.explained = p.kills()
		w.parents[dir] = p
	}
	p.settle()
	count.parent = p
	count.readOwn()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.children[count] = struct{}{}
}

func (p *oomParent) kills() uint64 {
	kills, _ := oomKills(map[string]string{"": p.dir})
	return kills
}

// settle reads the counts of the containers and gives the kills that none of them shows to
// those whose cgroups have gone since it last did; if none has, they were of something else.
func (p *oomParent) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var kills uint64
	var gone []*oomCount
	for changed := true; changed; { // the sum and its parts are to be of one moment
		kills = p.kills()
		changed = false
		for c := range p.children {
			before := c.known()
			after, there := c.readOwn()
			p.explained += after - before
			if !there {
				gone = append(gone, c)
				delete(p.children, c)
			}
			changed = changed || !there || after > before
		}
	}
	if kills <= p.explained {
		return
	}
	for _, c := range gone {
		c.mu.Lock()
		c.last += kills - p.explained
		c.mu.Unlock()
	}
	p.explained = kills
}

// remove takes the count of a container that has ended from those below.
func (p *oomParent) remove(c *oomCount) {
	w := p.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.children, c)
	if len(p.children) > 0 || w.parents[p.dir] != p {
		return
	}
	delete(w.parents, p.dir)
	_, _ = unix.InotifyRmWatch(w.fd, p.wd) // an error says that it has gone with the cgroup
}
