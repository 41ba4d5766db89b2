package podmetrics

import "github.com/berth-cri/berth/runtimeservice/stats"

var memoryMetrics = []metric{
	simple("container_memory_usage_bytes", "Memory in use, page cache included, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Memory }),
	simple("container_memory_working_set_bytes", "Memory in use that cannot be reclaimed easily, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.WorkingSet }),
	simple("container_memory_max_usage_bytes", "Most memory that was in use, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.MaxMemory }),
	simple("container_memory_rss", "Anonymous memory in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.RSS }),
	simple("container_memory_cache", "Page cache in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.Cache }),
	simple("container_memory_mapped_file", "Page cache that is mapped, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.MappedFile }),
	simple("container_memory_kernel_usage", "Memory of the kernel on its behalf, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.KernelMemory }),
	simple("container_memory_swap", "Swap in use, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Swap }),
	simple("container_memory_failcnt", "How often the memory limit was hit.", counter,
		func(u *stats.Usage) uint64 { return u.Details.MemoryFailures }),
	simple("container_memory_total_active_file_bytes", "Page cache in active use, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.ActiveFile }),
	simple("container_memory_total_inactive_file_bytes", "Page cache not in active use, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.InactiveFile }),
	simple("container_memory_file_dirty_bytes", "Page cache that is to be written back, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.DirtyFile }),
	simple("container_memory_file_writeback_bytes", "Page cache that is being written back, in bytes.", gauge,
		func(u *stats.Usage) uint64 { return u.Details.WritebackFile }),
	simple("container_memory_workingset_refault_file_total", "Page cache that was reclaimed too early, in pages.", counter,
		func(u *stats.Usage) uint64 { return u.Details.RefaultsFile }),
	simple("container_memory_workingset_refault_anon_total", "Anonymous memory that was swapped out too early, in pages.", counter,
		func(u *stats.Usage) uint64 { return u.Details.RefaultsAnon }),
	simple("container_memory_pgscan_total", "Pages looked at for reclaim.", counter,
		func(u *stats.Usage) uint64 { return u.Details.PagesScanned }).on(unified),
	simple("container_memory_pgsteal_total", "Pages reclaimed.", counter,
		func(u *stats.Usage) uint64 { return u.Details.PagesStolen }).on(unified),
	simple("container_memory_events_high_total", "How often memory.high was exceeded.", counter,
		func(u *stats.Usage) uint64 { return u.Details.HighEvents }).on(unified),
	simple("container_memory_events_max_total", "How often memory.max was hit.", counter,
		func(u *stats.Usage) uint64 { return u.Details.MemoryFailures }).on(unified),
	simple("container_oom_events_total", "Processes killed for want of memory.", counter,
		func(u *stats.Usage) uint64 { return u.Details.OOMKills }),
	{
		name: "container_memory_failures_total", help: "Page faults.", kind: counter, labels: []string{"failure_type", "scope"},
		sample: func(s *Subject, add sampler) {
			// The cgroups of containers count what is below them; there is no other scope.
			for _, scope := range []string{"container", "hierarchy"} {
				add(s.Usage.PageFaults, "pgfault", scope)
				add(s.Usage.MajorPageFaults, "pgmajfault", scope)
			}
		},
	},
}

var hugepageMetrics = []metric{
	hugepages("container_hugetlb_usage_bytes", "Huge pages in use, in bytes.",
		func(h stats.Hugepages) uint64 { return h.Used }),
	hugepages("container_hugetlb_max_usage_bytes", "Most huge pages that were in use, in bytes.",
		func(h stats.Hugepages) uint64 { return h.Max }).on(func(f stats.Features) bool { return len(f.Hugepages) > 0 && !f.Unified }),
}

func hugepages(name, help string, value func(stats.Hugepages) uint64) metric {
	return metric{
		name: name, help: help, kind: gauge, labels: []string{"pagesize"},
		needs: func(f stats.Features) bool { return len(f.Hugepages) > 0 },
		sample: func(s *Subject, add sampler) {
			for _, h := range s.Usage.Details.Hugepages {
				add(value(h), h.Size)
			}
		},
	}
}
