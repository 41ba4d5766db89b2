package stats

import (
	"cmp"
	"slices"
	"time"
)

// Details is the part of Usage that only metrics need. A number is zero where
// the kernel's version of cgroups has no such count.
type Details struct {
	// UserCPU and SystemCPU are the parts of Usage.CPU.
	UserCPU, SystemCPU time.Duration
	// Periods, of which some were throttled and some had a burst, are counted
	// with a quota only.
	Periods, ThrottledPeriods, BurstPeriods uint64
	Throttled, Burst                        time.Duration
	// CPUShares are those of version 1, converted from a weight of version 2.
	// CPUQuota is 0 for none.
	CPUShares           uint64
	CPUPeriod, CPUQuota time.Duration

	// Memory in bytes.
	Cache, MappedFile, KernelMemory        uint64
	ActiveFile, InactiveFile               uint64
	DirtyFile, WritebackFile               uint64
	MaxMemory                              uint64
	RefaultsFile, RefaultsAnon             uint64 // pages
	PagesScanned, PagesStolen              uint64
	MemoryFailures, HighEvents, OOMKills   uint64
	MemoryReservation, MemorySwapSpecLimit uint64

	// MaxThreads is NoLimit for none.
	MaxThreads uint64
	Disks      []Disk
	Hugepages  []Hugepages
}

// Hugepages are the pages of one size, in bytes.
type Hugepages struct {
	Size      string
	Used, Max uint64
}

// Disk is what a cgroup moved on a block device. On version 2 there are no
// counts of synchronous I/O.
type Disk struct {
	Device       string // as in /dev/sda
	Major, Minor uint64

	ReadBytes, WrittenBytes, DiscardedBytes uint64
	Reads, Writes                           uint64
	SyncBytes, AsyncBytes                   uint64
	// Cost is there where Features.IOCost is.
	CostUsage, CostWait, CostIndebt, CostIndelay time.Duration
}

// add leaves alone what has no sum: times, and settings of a single cgroup.
func (d *Details) add(v *Details) {
	d.UserCPU += v.UserCPU
	d.SystemCPU += v.SystemCPU
	d.Periods += v.Periods
	d.ThrottledPeriods += v.ThrottledPeriods
	d.BurstPeriods += v.BurstPeriods
	d.Throttled += v.Throttled
	d.Burst += v.Burst
	for _, sum := range []struct {
		to   *uint64
		from uint64
	}{
		{&d.CPUShares, v.CPUShares}, {&d.Cache, v.Cache}, {&d.MappedFile, v.MappedFile}, {&d.KernelMemory, v.KernelMemory},
		{&d.ActiveFile, v.ActiveFile}, {&d.InactiveFile, v.InactiveFile},
		{&d.DirtyFile, v.DirtyFile}, {&d.WritebackFile, v.WritebackFile},
		{&d.MaxMemory, v.MaxMemory}, {&d.RefaultsFile, v.RefaultsFile}, {&d.RefaultsAnon, v.RefaultsAnon},
		{&d.PagesScanned, v.PagesScanned}, {&d.PagesStolen, v.PagesStolen},
		{&d.MemoryFailures, v.MemoryFailures}, {&d.HighEvents, v.HighEvents}, {&d.OOMKills, v.OOMKills},
		{&d.MemoryReservation, v.MemoryReservation},
	} {
		*sum.to += sum.from
	}
	d.MaxThreads = addLimits(d.MaxThreads, v.MaxThreads)
	d.MemorySwapSpecLimit = addLimits(d.MemorySwapSpecLimit, v.MemorySwapSpecLimit)
	d.Disks = addDisks(d.Disks, v.Disks)
	d.Hugepages = addHugepages(d.Hugepages, v.Hugepages)
}

func addDisks(all, more []Disk) []Disk {
	all = slices.Clone(all)
	for _, m := range more {
		d := find(&all, m, func(d Disk) bool { return d.Major == m.Major && d.Minor == m.Minor })
		if d == nil {
			continue
		}
		d.ReadBytes += m.ReadBytes
		d.WrittenBytes += m.WrittenBytes
		d.DiscardedBytes += m.DiscardedBytes
		d.Reads += m.Reads
		d.Writes += m.Writes
		d.SyncBytes += m.SyncBytes
		d.AsyncBytes += m.AsyncBytes
		d.CostUsage += m.CostUsage
		d.CostWait += m.CostWait
		d.CostIndebt += m.CostIndebt
		d.CostIndelay += m.CostIndelay
	}
	return all
}

func addHugepages(all, more []Hugepages) []Hugepages {
	all = slices.Clone(all)
	for _, m := range more {
		h := find(&all, m, func(h Hugepages) bool { return h.Size == m.Size })
		if h == nil {
			continue
		}
		h.Used += m.Used
		h.Max += m.Max
	}
	return all
}

// find returns the element that is the same one; without one it appends value
// and returns nil.
func find[T any](all *[]T, value T, same func(T) bool) *T {
	if i := slices.IndexFunc(*all, same); i >= 0 {
		return &(*all)[i]
	}
	*all = append(*all, value)
	return nil
}

// sortDisks gives the order of the kernel's numbers.
func sortDisks(disks []Disk) {
	slices.SortFunc(disks, func(a, b Disk) int {
		return cmp.Or(cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor))
	})
}
