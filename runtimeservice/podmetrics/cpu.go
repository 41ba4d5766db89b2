package podmetrics

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/stats"
)

var cpuMetrics = []metric{
	{
		name: "container_cpu_usage_seconds_total", help: "CPU time used, in seconds.", kind: counter, labels: []string{"cpu"},
		sample: func(s *Subject, add sampler) { add(seconds(s.Usage.CPU), "total") },
	},
	simple("container_cpu_user_seconds_total", "CPU time used in user mode, in seconds.", counter,
		func(u *stats.Usage) uint64 { return seconds(u.Details.UserCPU) }),
	simple("container_cpu_system_seconds_total", "CPU time used in the kernel, in seconds.", counter,
		func(u *stats.Usage) uint64 { return seconds(u.Details.SystemCPU) }),
	withQuota("container_cpu_cfs_periods_total", "Periods in which the CPU quota was enforced.",
		func(d *stats.Details) uint64 { return d.Periods }),
	withQuota("container_cpu_cfs_throttled_periods_total", "Periods in which the CPU quota ran out.",
		func(d *stats.Details) uint64 { return d.ThrottledPeriods }),
	withQuota("container_cpu_cfs_throttled_seconds_total", "Time for which the CPU quota was used up, in seconds.",
		func(d *stats.Details) uint64 { return seconds(d.Throttled) }),
	withQuota("container_cpu_cfs_burst_periods_total", "Periods in which more than the CPU quota was used.",
		func(d *stats.Details) uint64 { return d.BurstPeriods }),
	withQuota("container_cpu_cfs_burst_seconds_total", "CPU time used beyond the quota, in seconds.",
		func(d *stats.Details) uint64 { return seconds(d.Burst) }),
}

// withQuota is a counter that has a sample only where there is a CPU quota.
func withQuota(name, help string, value func(*stats.Details) uint64) metric {
	return metric{name: name, help: help, kind: counter, sample: func(s *Subject, add sampler) {
		if s.Usage.Details.CPUQuota != 0 {
			add(value(s.Usage.Details))
		}
	}}
}

var pressureMetrics = []metric{
	pressure("container_pressure_cpu_waiting_seconds_total", "Time for which tasks waited for a CPU, in seconds.", some, cpuPressure),
	pressure("container_pressure_cpu_stalled_seconds_total", "Time for which all tasks waited for a CPU, in seconds.", full, cpuPressure),
	pressure("container_pressure_memory_waiting_seconds_total", "Time for which tasks waited for memory, in seconds.", some, memoryPressure),
	pressure("container_pressure_memory_stalled_seconds_total", "Time for which all tasks waited for memory, in seconds.", full, memoryPressure),
	pressure("container_pressure_io_waiting_seconds_total", "Time for which tasks waited for I/O, in seconds.", some, ioPressure),
	pressure("container_pressure_io_stalled_seconds_total", "Time for which all tasks waited for I/O, in seconds.", full, ioPressure),
}

func cpuPressure(u *stats.Usage) *stats.Pressure    { return u.CPUPressure }
func memoryPressure(u *stats.Usage) *stats.Pressure { return u.MemoryPressure }
func ioPressure(u *stats.Usage) *stats.Pressure     { return u.IOPressure }

func some(p *stats.Pressure) time.Duration { return p.Some.Total }
func full(p *stats.Pressure) time.Duration { return p.Full.Total }

func pressure(name, help string, total func(*stats.Pressure) time.Duration, of func(*stats.Usage) *stats.Pressure) metric {
	return metric{
		name: name, help: help, kind: counter,
		needs: func(f stats.Features) bool { return f.Pressure },
		sample: func(s *Subject, add sampler) {
			if p := of(&s.Usage); p != nil {
				add(seconds(total(p)))
			}
		},
	}
}

// specMetrics are settings and times.
var specMetrics = []metric{
	atTime("container_start_time_seconds", "When it was started, in seconds since 1970.", func(s *Subject) time.Time { return s.Started }),
	atTime("container_creation_time_seconds", "When it was created, in seconds since 1970.", func(s *Subject) time.Time { return s.Created }),
	atTime("container_last_seen", "When it was measured, in seconds since 1970.", func(s *Subject) time.Time { return s.Usage.Time }),
	simple("container_spec_cpu_period", "Period in which the CPU quota holds, in microseconds.", gauge,
		func(u *stats.Usage) uint64 { return uint64(u.Details.CPUPeriod.Microseconds()) }),
	{
		name: "container_spec_cpu_quota", help: "CPU time that may be used in each period, in microseconds.", kind: gauge,
		sample: func(s *Subject, add sampler) {
			if quota := s.Usage.Details.CPUQuota; quota != 0 {
				add(uint64(quota.Microseconds()))
			}
		},
	},
	simple("container_spec_cpu_shares", "Share of the CPUs under contention.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.CPUShares }),
	simple("container_spec_memory_limit_bytes", "Limit for memory in bytes, 0 for none.", gauge,
		func(u *stats.Usage) uint64 { return limit(u.MemoryLimit) }),
	simple("container_spec_memory_swap_limit_bytes",
		"Limit in bytes, 0 for none: of memory and swap together with cgroup v1, of swap with cgroup v2.", gauge,
		func(u *stats.Usage) uint64 { return limit(u.Details.MemorySwapSpecLimit) }),
	simple("container_spec_memory_reservation_limit_bytes", "Memory that is not reclaimed before others', in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.MemoryReservation }),
}

func atTime(name, help string, at func(*Subject) time.Time) metric {
	return metric{name: name, help: help, kind: runtimeapi.MetricType_GAUGE, sample: func(s *Subject, add sampler) {
		if t := at(s); t.Unix() > 0 {
			add(uint64(t.Unix()))
		}
	}}
}
