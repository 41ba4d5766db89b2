package layer

import "golang.org/x/sys/unix"

// maxOpenDirs bounds the directories of one layer that are held open.
const maxOpenDirs = 512

// openDirs are the directories that entries were written to, by their paths: the
// next entries most often go there, too. To add a name to a directory never changes
// where a path leads that has led somewhere. The zero value is empty.
type openDirs struct {
	fds map[string]int
	// forgotten are still open because one of them may be in use.
	forgotten []int
}

// keep takes fd, which path leads to.
func (d *openDirs) keep(path string, fd int) {
	if len(d.fds) == maxOpenDirs {
		d.forget()
	}
	if d.fds == nil {
		d.fds = map[string]int{}
	}
	d.fds[path] = fd
}

// forget is for when paths may lead elsewhere than before.
func (d *openDirs) forget() {
	for _, fd := range d.fds {
		d.forgotten = append(d.forgotten, fd)
	}
	clear(d.fds)
}

// closeForgotten is for when none is in use.
func (d *openDirs) closeForgotten() {
	for _, fd := range d.forgotten {
		unix.Close(fd)
	}
	d.forgotten = d.forgotten[:0]
}
