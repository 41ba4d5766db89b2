package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
)

// reclaim opens the outputs of a container anew that neither a monitor nor a client
// holds any more, as both were killed. The container's processes still hold the pipes,
// for reading too, so that they were not told that nobody listens. A terminal is lost:
// its master is gone.
func (c *container) reclaim() error {
	c.mu.Lock()
	rec := c.rec
	wanted := c.phase == running && c.pidfd >= 0 && c.lost() && !rec.Terminal
	c.mu.Unlock()
	if !wanted {
		return nil
	}
	stdout, stderr := -1, -1
	pids, err := processesOf(rec.Cgroups)
	for _, pid := range pids {
		if stdout < 0 {
			stdout = openPipeOf(pid, rec.Pipes[logfile.Stdout])
		}
		if stderr < 0 {
			stderr = openPipeOf(pid, rec.Pipes[logfile.Stderr])
		}
	}
	if err := errors.Join(err, c.adoptOutputs(false, stdout, stderr)); err != nil {
		return fmt.Errorf("open the outputs of container %q again: %w", c.id, err)
	}
	return nil
}

// openPipeOf opens for reading the pipe of that inode if the process has it, else it
// returns -1. The process may end meanwhile.
func openPipeOf(pid int, inode uint64) int {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if fd := openIfPipe(filepath.Join(dir, e.Name()), inode); fd >= 0 {
			return fd
		}
	}
	return -1
}

// openIfPipe opens a file for reading if it is that pipe, else it returns -1. It looks
// before it opens, as the process may put a device in the place of its pipe.
func openIfPipe(path string, inode uint64) int {
	ref, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	defer unix.Close(ref)
	self := "/proc/self/fd/" + strconv.Itoa(ref)
	if target, err := os.Readlink(self); err != nil || target != fmt.Sprintf("pipe:[%d]", inode) {
		return -1
	}
	fd, err := unix.Open(self, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

func inodeOf(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return st.Ino, nil
}
