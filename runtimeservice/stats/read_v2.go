package stats

import (
	"bytes"
	"path/filepath"
	"time"
)

func (r *Reader) readV2(cgroup string, u *Usage) error {
	dir := filepath.Join(r.root, cgroup)
	f := files{dir: func(string) string { return dir }}
	f.cpuV2(u)
	u.Time = time.Now()
	if f.err != nil {
		return f.err
	}
	f.memoryV2(u)
	u.Processes = f.optional("", "pids.current")
	if r.features().Pressure {
		f.pressure("", u)
	}
	if u.Details != nil {
		f.cpuDetailsV2(u.Details)
		f.memoryDetailsV2(u.Details)
		u.Details.MaxThreads = f.limit("", "pids.max")
		u.Details.Disks = r.disksV2(&f)
		u.Details.Hugepages = f.hugepages(r.features().Hugepages, hugepageFilesV2)
	}
	return f.err
}

func (f *files) cpuV2(u *Usage) {
	d := u.Details
	if d == nil {
		d = &Details{}
	}
	f.table("", "cpu.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "usage_usec":
			u.CPU = time.Duration(value) * time.Microsecond
		case "user_usec":
			d.UserCPU = time.Duration(value) * time.Microsecond
		case "system_usec":
			d.SystemCPU = time.Duration(value) * time.Microsecond
		case "nr_periods":
			d.Periods = value
		case "nr_throttled":
			d.ThrottledPeriods = value
		case "throttled_usec":
			d.Throttled = time.Duration(value) * time.Microsecond
		case "nr_bursts":
			d.BurstPeriods = value
		case "burst_usec":
			d.Burst = time.Duration(value) * time.Microsecond
		}
	})
}

func (f *files) cpuDetailsV2(d *Details) {
	if weight := f.optional("", "cpu.weight"); weight > 0 {
		d.CPUShares = sharesOfWeight(weight)
	}
	raw, ok := f.read("", "cpu.max")
	if !ok {
		return
	}
	quota, period, _ := bytes.Cut(bytes.TrimSpace(raw), []byte{' '})
	d.CPUPeriod = time.Duration(f.parse("cpu.max", period)) * time.Microsecond
	if string(quota) != "max" {
		d.CPUQuota = time.Duration(f.parse("cpu.max", quota)) * time.Microsecond
	}
}

// sharesOfWeight maps the weights 1 to 10000 evenly to the shares 2 to 262144,
// as dashboards that show both versions expect it.
func sharesOfWeight(weight uint64) uint64 { return 2 + (weight-1)*262142/9999 }

func (f *files) memoryV2(u *Usage) {
	u.Memory = f.number("", "memory.current")
	d := u.Details
	if d == nil {
		d = &Details{}
	}
	f.table("", "memory.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "anon":
			u.RSS = value
		case "inactive_file":
			d.InactiveFile = value
		case "pgfault":
			u.PageFaults = value
		case "pgmajfault":
			u.MajorPageFaults = value
		case "file":
			d.Cache = value
		case "file_mapped":
			d.MappedFile = value
		case "active_file":
			d.ActiveFile = value
		case "file_dirty":
			d.DirtyFile = value
		case "file_writeback":
			d.WritebackFile = value
		case "kernel":
			d.KernelMemory = value
		case "pgscan":
			d.PagesScanned = value
		case "pgsteal":
			d.PagesStolen = value
		case "workingset_refault_file":
			d.RefaultsFile = value
		case "workingset_refault_anon":
			d.RefaultsAnon = value
		}
	})
	u.WorkingSet = less(u.Memory, d.InactiveFile)
	u.MemoryLimit = f.limit("", "memory.max")
	if swap, ok := f.read("", "memory.swap.current"); ok {
		u.Swap, u.HasSwap = f.parse("memory.swap.current", swap), true
		u.SwapLimit = f.limit("", "memory.swap.max")
	}
	d.MemorySwapSpecLimit = u.SwapLimit
}

func (f *files) memoryDetailsV2(d *Details) {
	d.MaxMemory = f.optional("", "memory.peak")
	if n := f.limit("", "memory.min"); n != NoLimit {
		d.MemoryReservation = n
	}
	f.optionalTable("", "memory.events", func(key []byte, value uint64) {
		switch string(key) {
		case "high":
			d.HighEvents = value
		case "max":
			d.MemoryFailures = value
		case "oom_kill":
			d.OOMKills = value
		}
	})
}
