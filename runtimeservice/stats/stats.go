// Package stats reads what containers use from their cgroups, version 1 and 2
// and both side by side, and what pods send and receive from their network
// namespaces. It keeps nothing but the names of disks.
package stats

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const defaultRoot = "/sys/fs/cgroup"

// NoLimit is the limit of what has none.
const NoLimit = math.MaxUint64

// noLimitV1 is about what cgroup v1 writes for none: the greatest number of
// pages that fits a long, which depends on the page size.
const noLimitV1 = math.MaxInt64 &^ 0xffff

// Detail is how much is read: more files take more time.
type Detail int

const (
	// Basic is what CRI has fields for.
	Basic Detail = iota
	// Full adds Usage.Details.
	Full
)

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
	// Processes counts threads too, as the pids controller does.
	Processes uint64
	// What tasks had to wait for; nil where the kernel does not tell.
	CPUPressure, MemoryPressure, IOPressure *Pressure
	// Details are there if they were asked for.
	Details *Details
}

// Add sums up what several cgroups use. A limit is the sum too, NoLimit if one
// has none. The earlier time holds. Pressure has no sum: two who wait at the same
// time wait as long as one.
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
	u.CPUPressure, u.MemoryPressure, u.IOPressure = nil, nil, nil
	if v.Details == nil {
		return
	}
	var sum Details
	if u.Details != nil {
		sum = *u.Details
	}
	sum.add(v.Details)
	u.Details = &sum
}

func addLimits(a, b uint64) uint64 {
	if a == NoLimit || b == NoLimit || a+b < a {
		return NoLimit
	}
	return a + b
}

// Reader reads cgroups below a mount point. It may be used by several at a time.
type Reader struct {
	root     string
	features func() Features
	disks    sync.Map // names by number
}

// NewReader makes a Reader of the hierarchies mounted at root, /sys/fs/cgroup if
// empty. On a hybrid node, where the controllers are those of version 1, it reads
// version 1, and pressure of version 2.
func NewReader(root string) *Reader {
	if root == "" {
		root = defaultRoot
	}
	return &Reader{root: root, features: sync.OnceValue(func() Features { return detect(root) })}
}

// Features is what this node's cgroups can tell. It is found out once.
func (r *Reader) Features() Features { return r.features() }

// Read tells what a cgroup uses, given its path below the mount points. The
// error is fs.ErrNotExist where there is no such cgroup.
func (r *Reader) Read(cgroup string, detail Detail) (Usage, error) {
	u := Usage{MemoryLimit: NoLimit, SwapLimit: NoLimit}
	if detail == Full {
		u.Details = &Details{}
	}
	var err error
	if r.features().Unified {
		err = r.readV2(cgroup, &u)
	} else {
		err = r.readV1(cgroup, &u)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read cgroup %q: %w", cgroup, err)
	}
	return u, nil
}

// dir is a cgroup's directory in the hierarchy of a controller.
func (r *Reader) dir(controller, cgroup string) string {
	if r.features().Unified {
		return filepath.Join(r.root, cgroup)
	}
	return filepath.Join(r.root, controller, cgroup)
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
