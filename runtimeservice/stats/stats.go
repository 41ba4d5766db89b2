// Package stats reads what containers use from their cgroups, version 1 and 2,
// and what pods send and receive from their network namespaces. It reads the few
// files that CRI has fields for, and keeps nothing.
package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const defaultRoot = "/sys/fs/cgroup"

// NoLimit is the limit of what has none.
const NoLimit = math.MaxUint64

// noLimitV1 is about what cgroup v1 writes for none: the greatest number of
// pages that fits a long, which depends on the page size.
const noLimitV1 = math.MaxInt64 &^ 0xffff

// Usage is what a cgroup uses, with all below it.
type Usage struct {
	Time time.Time
	// CPU is the time used so far, of all cores together.
	CPU time.Duration
	// Memory in bytes. WorkingSet is what cannot be reclaimed easily: all but
	// inactive file pages. RSS is anonymous memory.
	Memory, WorkingSet, RSS, MemoryLimit uint64
	PageFaults, MajorPageFaults          uint64
	// Swap and SwapLimit are in bytes, without memory. HasSwap is false where
	// the kernel does not tell.
	Swap, SwapLimit uint64
	HasSwap         bool
	Processes       uint64
}

// Add sums up what several cgroups use. A limit is the sum too, NoLimit if one
// has none. The earlier time holds.
func (u *Usage) Add(v Usage) {
	if u.Time.IsZero() || v.Time.Before(u.Time) {
		u.Time = v.Time
	}
	u.CPU += v.CPU
	u.Memory += v.Memory
	u.WorkingSet += v.WorkingSet
	u.RSS += v.RSS
	u.PageFaults += v.PageFaults
	u.MajorPageFaults += v.MajorPageFaults
	u.Swap += v.Swap
	u.Processes += v.Processes
	u.HasSwap = u.HasSwap || v.HasSwap
	u.MemoryLimit = addLimits(u.MemoryLimit, v.MemoryLimit)
	u.SwapLimit = addLimits(u.SwapLimit, v.SwapLimit)
}

func addLimits(a, b uint64) uint64 {
	if a == NoLimit || b == NoLimit || a+b < a {
		return NoLimit
	}
	return a + b
}

// Reader reads cgroups below a mount point. It may be used by several at a time.
type Reader struct {
	root    string
	version func() int
}

// NewReader makes a Reader of the hierarchies mounted at root, /sys/fs/cgroup if
// empty. On a hybrid node, where the controllers are those of version 1, it reads
// version 1.
func NewReader(root string) *Reader {
	if root == "" {
		root = defaultRoot
	}
	return &Reader{root: root, version: sync.OnceValue(func() int {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
			return 2
		}
		return 1
	})}
}

// Read tells what a cgroup uses, given its path below the mount points. The
// error is fs.ErrNotExist where there is no such cgroup.
func (r *Reader) Read(cgroup string) (Usage, error) {
	u := Usage{MemoryLimit: NoLimit, SwapLimit: NoLimit}
	var err error
	if r.version() == 2 {
		err = r.readV2(cgroup, &u)
	} else {
		err = r.readV1(cgroup, &u)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read cgroup %q: %w", cgroup, err)
	}
	return u, nil
}

func (r *Reader) readV1(cgroup string, u *Usage) error {
	f := files{dir: func(controller string) string { return filepath.Join(r.root, controller, cgroup) }}
	u.CPU = time.Duration(f.number("cpuacct", "cpuacct.usage"))
	u.Time = time.Now()
	u.Memory = f.number("memory", "memory.usage_in_bytes")
	// Keys that begin with total_ are those of the whole subtree.
	var memAndSwap uint64 = noLimitV1
	var inactive uint64
	f.table("memory", "memory.stat", func(key string, value uint64) {
		switch key {
		case "total_rss":
			u.RSS = value
		case "total_inactive_file":
			inactive = value
		case "total_pgfault":
			u.PageFaults = value
		case "total_pgmajfault":
			u.MajorPageFaults = value
		case "total_swap":
			u.Swap, u.HasSwap = value, true
		case "hierarchical_memory_limit":
			u.MemoryLimit = value
		case "hierarchical_memsw_limit":
			memAndSwap = value
		}
	})
	u.WorkingSet = less(u.Memory, inactive)
	if u.MemoryLimit >= noLimitV1 {
		u.MemoryLimit = NoLimit
	}
	if memAndSwap < noLimitV1 && u.MemoryLimit != NoLimit {
		u.SwapLimit = less(memAndSwap, u.MemoryLimit)
	}
	u.Processes = f.optional("pids", "pids.current")
	return f.err
}

func (r *Reader) readV2(cgroup string, u *Usage) error {
	f := files{dir: func(string) string { return filepath.Join(r.root, cgroup) }}
	f.table("", "cpu.stat", func(key string, value uint64) {
		if key == "usage_usec" {
			u.CPU = time.Duration(value) * time.Microsecond
		}
	})
	u.Time = time.Now()
	u.Memory = f.number("", "memory.current")
	var inactive uint64
	f.table("", "memory.stat", func(key string, value uint64) {
		switch key {
		case "anon":
			u.RSS = value
		case "inactive_file":
			inactive = value
		case "pgfault":
			u.PageFaults = value
		case "pgmajfault":
			u.MajorPageFaults = value
		}
	})
	u.WorkingSet = less(u.Memory, inactive)
	u.MemoryLimit = f.limit("memory.max")
	if swap, ok := f.read("", "memory.swap.current"); ok {
		u.Swap, u.HasSwap = f.parse("memory.swap.current", swap), true
		u.SwapLimit = f.limit("memory.swap.max")
	}
	u.Processes = f.optional("", "pids.current")
	return f.err
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// files reads the files of one cgroup and remembers the first error.
type files struct {
	dir func(controller string) string
	err error
}

// read returns the content of a file that the node need not have.
func (f *files) read(controller, name string) ([]byte, bool) {
	raw, err := readFile(filepath.Join(f.dir(controller), name))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && f.err == nil {
			f.err = err
		}
		return nil, false
	}
	return raw, true
}

func (f *files) must(controller, name string) []byte {
	raw, err := readFile(filepath.Join(f.dir(controller), name))
	if err != nil && f.err == nil {
		f.err = err
	}
	return raw
}

func (f *files) parse(name string, raw []byte) uint64 {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(raw)), 10, 64)
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("%s: %w", name, err)
	}
	return n
}

func (f *files) number(controller, name string) uint64 {
	raw := f.must(controller, name)
	if f.err != nil {
		return 0
	}
	return f.parse(name, raw)
}

func (f *files) optional(controller, name string) uint64 {
	raw, ok := f.read(controller, name)
	if !ok {
		return 0
	}
	return f.parse(name, raw)
}

// limit reads a file of version 2 that has a number or "max". The root cgroup
// has none.
func (f *files) limit(name string) uint64 {
	raw, ok := f.read("", name)
	if !ok || string(bytes.TrimSpace(raw)) == "max" {
		return NoLimit
	}
	return f.parse(name, raw)
}

func (f *files) table(controller, name string, each func(key string, value uint64)) {
	raw := f.must(controller, name)
	for line := range bytes.Lines(raw) {
		key, value, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			continue // one of a kind that a newer kernel has
		}
		each(key, n)
	}
}

// statFileSize is more than any file read here has.
const statFileSize = 16 << 10

var buffers = sync.Pool{New: func() any { return new([statFileSize]byte) }}

// readFile is os.ReadFile without its detour through the poller, which for files
// of cgroups costs more than the reading.
func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := buffers.Get().(*[statFileSize]byte)
	defer buffers.Put(buf)
	total := 0
	for total < len(buf) {
		n, err := unix.Read(fd, buf[total:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			if errors.Is(err, unix.ENODEV) { // the cgroup was removed meanwhile
				err = unix.ENOENT
			}
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			break
		}
		total += n
	}
	return bytes.Clone(buf[:total]), nil
}
