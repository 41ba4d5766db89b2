package cri

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkResources checks limits. A quota, memory or swap limit of -1 is the
// cgroups' way to say unlimited.
func checkResources(path string, r *runtimeapi.LinuxContainerResources) error {
	return first(
		atLeast(field(path, "cpu_period"), r.GetCpuPeriod(), 0),
		atLeast(field(path, "cpu_quota"), r.GetCpuQuota(), -1),
		atLeast(field(path, "cpu_shares"), r.GetCpuShares(), 0),
		atLeast(field(path, "memory_limit_in_bytes"), r.GetMemoryLimitInBytes(), -1),
		between(field(path, "oom_score_adj"), r.GetOomScoreAdj(), -1000, 1000),
		matches(field(path, "cpuset_cpus"), r.GetCpusetCpus(), cpusetPattern, "a list of CPUs"),
		matches(field(path, "cpuset_mems"), r.GetCpusetMems(), cpusetPattern, "a list of memory nodes"),
		each(field(path, "hugepage_limits"), r.GetHugepageLimits(), checkHugepages),
		checkUnified(field(path, "unified"), r.GetUnified()),
		atLeast(field(path, "memory_swap_limit_in_bytes"), r.GetMemorySwapLimitInBytes(), -1),
	)
}

func checkHugepages(path string, h *runtimeapi.HugepageLimit) error {
	at := field(path, "page_size")
	if h.GetPageSize() == "" {
		return invalid(at, "must not be empty")
	}
	return matches(at, h.GetPageSize(), pageSizePattern, "a page size such as 2MB")
}

// maxUnified bounds a cgroup's setting, which may have a line for each device.
const maxUnified = 64 << 10

// checkUnified sees to it that a key is the name of a cgroup file and no path.
func checkUnified(path string, unified map[string]string) error {
	for k, v := range unified {
		if len(k) > maxName {
			return invalid(path, "a key must not have more than %d bytes", maxName)
		}
		if k == "" || !unifiedPattern.MatchString(k) {
			return invalid(entry(path, k), "%q is not a file of a cgroup", shorten(k))
		}
		if strings.ContainsRune(v, 0) {
			return invalid(entry(path, k), "the value contains a NUL byte")
		}
		if len(v) > maxUnified {
			return invalid(entry(path, k), "the value must not have more than %d bytes", maxUnified)
		}
	}
	return nil
}
