package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Processes is what the processes of a cgroup have open.
type Processes struct {
	Count, FileDescriptors, Sockets uint64
	// OpenFilesLimit is the soft limit of the process asked for; NoLimit for none.
	// HasLimits is false where it could not be asked.
	OpenFilesLimit uint64
	HasLimits      bool
}

// Add sums up what is not a limit.
func (p *Processes) Add(v Processes) {
	p.Count += v.Count
	p.FileDescriptors += v.FileDescriptors
	p.Sockets += v.Sockets
}

// ReadProcesses looks at the processes of a cgroup and of those below it; first
// is the one whose limits are told, 0 for none. A process that ends meanwhile is
// left out. The error is fs.ErrNotExist where there is no such cgroup.
func (r *Reader) ReadProcesses(cgroup string, first int) (Processes, error) {
	var p Processes
	if err := p.walk(r.dir("memory", cgroup)); err != nil {
		return Processes{}, fmt.Errorf("read processes of cgroup %q: %w", cgroup, err)
	}
	if first > 0 {
		p.limits(first)
	}
	return p, nil
}

func (p *Processes) walk(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	// A threaded cgroup of version 2 refuses; the one it belongs to has them all.
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		if errors.Is(err, unix.ENODEV) {
			return fs.ErrNotExist
		}
		return err
	}
	for line := range bytes.Lines(raw) {
		p.open(string(bytes.TrimSpace(line)))
	}
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil || stat.Nlink <= 2 {
		return nil // it has no cgroups below it, which is usual
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		if entry.IsDir() {
			_ = p.walk(filepath.Join(dir, entry.Name())) // may be gone by now
		}
	}
	return nil
}

// open counts what a process has open.
func (p *Processes) open(pid string) {
	dir, err := os.Open("/proc/" + pid + "/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	p.Count++
	p.FileDescriptors += uint64(len(names))
	var target [len("socket:")]byte
	for _, name := range names {
		n, err := unix.Readlinkat(int(dir.Fd()), name, target[:])
		if err == nil && string(target[:n]) == "socket:" {
			p.Sockets++
		}
	}
}

// limits reads the limits of a process (proc_pid_limits(5)).
func (p *Processes) limits(pid int) {
	raw, err := readFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return
	}
	for line := range bytes.Lines(raw) {
		rest, ok := bytes.CutPrefix(line, []byte("Max open files"))
		if !ok {
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			return
		}
		p.OpenFilesLimit, p.HasLimits = NoLimit, true
		if n, ok := number(fields[0]); ok {
			p.OpenFilesLimit = n
		}
	}
}
