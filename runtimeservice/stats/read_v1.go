package stats

import (
	"bytes"
	"path/filepath"
	"time"
)

// clockTick is the unit of cpuacct.stat: USER_HZ, which is 100 on all that Linux
// runs on.
const clockTick = time.Second / 100

func (r *Reader) readV1(cgroup string, u *Usage) error {
	dirs := make(map[string]string, 8)
	f := files{dir: func(controller string) string {
		dir, ok := dirs[controller]
		if !ok {
			dir = filepath.Join(r.root, controller, cgroup)
			dirs[controller] = dir
		}
		return dir
	}}
	u.CPU = time.Duration(f.number("cpuacct", "cpuacct.usage"))
	u.Time = time.Now()
	if f.err != nil {
		return f.err
	}
	f.memoryV1(u)
	u.Processes = f.optional("pids", "pids.current")
	if r.features().Pressure {
		f.pressure(hybridMount, u)
	}
	if u.Details != nil {
		f.cpuDetailsV1(u.Details)
		f.memoryDetailsV1(u.Details)
		u.Details.MaxThreads = f.limit("pids", "pids.max")
		u.Details.Disks = r.disksV1(&f)
		u.Details.Hugepages = f.hugepages(r.features().Hugepages, hugepageFilesV1)
	}
	return f.err
}

func (f *files) memoryV1(u *Usage) {
	u.Memory = f.number("memory", "memory.usage_in_bytes")
	d := u.Details
	if d == nil {
		d = &Details{}
	}
	// Keys that begin with total_ are those of the whole subtree.
	var memAndSwap uint64 = noLimitV1
	f.table("memory", "memory.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "total_rss":
			u.RSS = value
		case "total_inactive_file":
			d.InactiveFile = value
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
		case "total_cache":
			d.Cache = value
		case "total_mapped_file":
			d.MappedFile = value
		case "total_active_file":
			d.ActiveFile = value
		case "total_dirty":
			d.DirtyFile = value
		case "total_writeback":
			d.WritebackFile = value
		case "total_workingset_refault_file":
			d.RefaultsFile = value
		case "total_workingset_refault_anon":
			d.RefaultsAnon = value
		}
	})
	u.WorkingSet = less(u.Memory, d.InactiveFile)
	if u.MemoryLimit >= noLimitV1 {
		u.MemoryLimit = NoLimit
	}
	d.MemorySwapSpecLimit = NoLimit
	if memAndSwap < noLimitV1 {
		d.MemorySwapSpecLimit = memAndSwap
		if u.MemoryLimit != NoLimit {
			u.SwapLimit = less(memAndSwap, u.MemoryLimit)
		}
	}
}

func (f *files) memoryDetailsV1(d *Details) {
	d.MaxMemory = f.optional("memory", "memory.max_usage_in_bytes")
	d.MemoryFailures = f.optional("memory", "memory.failcnt")
	d.KernelMemory = f.optional("memory", "memory.kmem.usage_in_bytes")
	if n := f.optional("memory", "memory.soft_limit_in_bytes"); n < noLimitV1 {
		d.MemoryReservation = n
	}
	f.optionalTable("memory", "memory.oom_control", func(key []byte, value uint64) {
		if string(key) == "oom_kill" {
			d.OOMKills = value
		}
	})
}

func (f *files) cpuDetailsV1(d *Details) {
	f.optionalTable("cpuacct", "cpuacct.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "user":
			d.UserCPU = time.Duration(value) * clockTick
		case "system":
			d.SystemCPU = time.Duration(value) * clockTick
		}
	})
	f.optionalTable("cpu", "cpu.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "nr_periods":
			d.Periods = value
		case "nr_throttled":
			d.ThrottledPeriods = value
		case "throttled_time":
			d.Throttled = time.Duration(value)
		case "nr_bursts":
			d.BurstPeriods = value
		case "burst_time":
			d.Burst = time.Duration(value)
		}
	})
	d.CPUShares = f.optional("cpu", "cpu.shares")
	d.CPUPeriod = time.Duration(f.optional("cpu", "cpu.cfs_period_us")) * time.Microsecond
	if raw, ok := f.read("cpu", "cpu.cfs_quota_us"); ok && !bytes.HasPrefix(raw, []byte("-")) {
		d.CPUQuota = time.Duration(f.parse("cpu.cfs_quota_us", raw)) * time.Microsecond
	}
}
