package spec

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	minCPUPeriod = 1000    // µs, the kernel's bounds
	maxCPUPeriod = 1000000 // µs
	minOOMScore  = -1000
	maxOOMScore  = 1000
)

// LinuxResources converts a request's limits, for a new container and for one
// that is updated alike: zero means not specified and stays unset. field is the
// request's path to r, for errors. The OOM score is not among the result, which
// has only what cgroups limit. A nil r gives an empty result.
func LinuxResources(field string, r *runtimeapi.LinuxContainerResources, host *Host) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{}
	if r == nil {
		return out, nil
	}
	var err error
	if out.CPU, err = cpuLimits(field, r); err != nil {
		return nil, err
	}
	if out.Memory, err = memoryLimits(field, r, host); err != nil {
		return nil, err
	}
	if out.HugepageLimits, err = hugepageLimits(field+".hugepage_limits", r.GetHugepageLimits(), host); err != nil {
		return nil, err
	}
	if _, err := checkOOMScore(field, r); err != nil {
		return nil, err
	}
	if len(r.GetUnified()) > 0 {
		if err := checkUnified(field+".unified", r.GetUnified(), host); err != nil {
			return nil, err
		}
		out.Unified = maps.Clone(r.GetUnified())
	}
	return out, nil
}

func cpuLimits(field string, r *runtimeapi.LinuxContainerResources) (*specs.LinuxCPU, error) {
	shares, quota, period := r.GetCpuShares(), r.GetCpuQuota(), r.GetCpuPeriod()
	switch {
	case shares < 0:
		return nil, invalid(field+".cpu_shares", "%d is negative", shares)
	case quota < -1:
		return nil, invalid(field+".cpu_quota", "%d is neither a quota nor -1 for none", quota)
	case period != 0 && (period < minCPUPeriod || period > maxCPUPeriod):
		return nil, invalid(field+".cpu_period", "%d µs is not between %d and %d", period, minCPUPeriod, maxCPUPeriod)
	}
	if err := checkList(field+".cpuset_cpus", r.GetCpusetCpus()); err != nil {
		return nil, err
	}
	if err := checkList(field+".cpuset_mems", r.GetCpusetMems()); err != nil {
		return nil, err
	}
	if shares == 0 && quota == 0 && period == 0 && r.GetCpusetCpus() == "" && r.GetCpusetMems() == "" {
		return nil, nil
	}
	cpu := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if shares != 0 {
		v := uint64(shares)
		cpu.Shares = &v
	}
	if quota != 0 {
		cpu.Quota = &quota
	}
	if period != 0 {
		v := uint64(period)
		cpu.Period = &v
	}
	return cpu, nil
}

// checkList checks the kernel's list format, as in "0-3,7".
func checkList(field, s string) error {
	if s == "" {
		return nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, ranged := strings.Cut(part, "-")
		lo, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return invalid(field, "%q is not a list of numbers and ranges", s)
		}
		if !ranged {
			continue
		}
		if hi, err := strconv.ParseUint(last, 10, 16); err != nil || hi < lo {
			return invalid(field, "%q is not a list of numbers and ranges", s)
		}
	}
	return nil
}

// memoryLimits converts memory and swap. A limit without one for swap allows no
// swap, as Kubernetes expects; where the kernel cannot limit swap it is left to
// it.
func memoryLimits(field string, r *runtimeapi.LinuxContainerResources, host *Host) (*specs.LinuxMemory, error) {
	limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	switch {
	case limit < -1:
		return nil, invalid(field+".memory_limit_in_bytes", "%d is neither a limit nor -1 for none", limit)
	case swap < -1:
		return nil, invalid(field+".memory_swap_limit_in_bytes", "%d is neither a limit nor -1 for none", swap)
	case swap > 0 && limit > swap:
		return nil, invalid(field+".memory_swap_limit_in_bytes", "%d for memory and swap together is less than memory's %d", swap, limit)
	}
	if limit == 0 && (swap == 0 || !host.SwapLimit) {
		return nil, nil
	}
	m := &specs.LinuxMemory{}
	if limit != 0 {
		m.Limit = &limit
	}
	if host.SwapLimit {
		if swap == 0 {
			swap = limit
		}
		m.Swap = &swap
	}
	return m, nil
}

// hugepageLimits converts the limits by page size. A kubelet sends all sizes the
// node has, with 0 for those that a pod does not ask for: where the kernel cannot
// limit a size only a real limit is an error.
func hugepageLimits(field string, limits []*runtimeapi.HugepageLimit, host *Host) ([]specs.LinuxHugepageLimit, error) {
	var out []specs.LinuxHugepageLimit
	for i, l := range limits {
		at := field + "[" + strconv.Itoa(i) + "]"
		size := l.GetPageSize()
		if !isPageSize(size) {
			return nil, invalid(at+".page_size", "%q is not a size as in 2MB", size)
		}
		if !slices.Contains(host.HugepageSizes, size) {
			if l.GetLimit() == 0 {
				continue
			}
			return nil, precondition(at+".page_size", "the node cannot limit pages of %s", size)
		}
		out = append(out, specs.LinuxHugepageLimit{Pagesize: size, Limit: l.GetLimit()})
	}
	return out, nil
}

func isPageSize(s string) bool {
	digits := strings.TrimRight(s, "KMGTPB")
	if unit := s[len(digits):]; len(unit) != 2 || unit[1] != 'B' || unit[0] == 'B' {
		return false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	return err == nil && n > 0 && digits[0] != '0'
}

func checkUnified(field string, unified map[string]string, host *Host) error {
	if !host.CgroupV2 {
		return precondition(field, "the node has cgroup v1, which has no unified parameters")
	}
	for _, key := range slices.Sorted(maps.Keys(unified)) {
		if !strings.Contains(key, ".") || strings.ContainsAny(key, "/\x00") || strings.HasPrefix(key, ".") {
			return invalid(field, "%q is not the name of a cgroup file", key)
		}
		if hasControl(strings.ReplaceAll(unified[key], "\n", " ")) {
			return invalid(field, "the value of %q holds a control character", key)
		}
	}
	return nil
}

func checkOOMScore(field string, r *runtimeapi.LinuxContainerResources) (int, error) {
	score := r.GetOomScoreAdj()
	if score < minOOMScore || score > maxOOMScore {
		return 0, invalid(field+".oom_score_adj", "%d is not between %d and %d", score, minOOMScore, maxOOMScore)
	}
	return int(score), nil
}

// OOMScoreAdj gives the OOM score adjustment that a container can have. Without
// CAP_SYS_RESOURCE none can be below the daemon's own; note is told of a score
// that was raised for that, and may be nil.
func OOMScoreAdj(field string, r *runtimeapi.LinuxContainerResources, host *Host, note func(string)) (int, error) {
	score, err := checkOOMScore(field, r)
	if err != nil {
		return 0, err
	}
	if host.CanRaiseLimits || score >= host.OOMScoreAdj {
		return score, nil
	}
	if note != nil {
		note("OOM score " + strconv.Itoa(score) + " raised to " + strconv.Itoa(host.OOMScoreAdj) + ", the daemon's own: it lacks CAP_SYS_RESOURCE")
	}
	return host.OOMScoreAdj, nil
}

// rlimits gives the configured limits, none above what the daemon may set.
func rlimits(in *Input, note func(string)) ([]specs.POSIXRlimit, error) {
	out := slices.Clone(in.Defaults.Rlimits)
	if err := ClampRlimits("default rlimits", out, in.Host, note); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// ClampRlimits lowers limits that are above what the daemon may set, as Build does with
// those of the configuration. It changes the list. An unknown limit is InvalidArgument;
// field is where the limits come from.
func ClampRlimits(field string, limits []specs.POSIXRlimit, host *Host, note func(string)) error {
	for i := range limits {
		l := &limits[i]
		if !knownRlimit(l.Type) {
			return invalid(field, "unknown limit %q", l.Type)
		}
		if hard, known := host.HardRlimits[l.Type]; known && !host.CanRaiseLimits && l.Hard > hard {
			note(l.Type + " lowered to the daemon's own hard limit " + strconv.FormatUint(hard, 10) + ": it lacks CAP_SYS_RESOURCE")
			l.Hard = hard
		}
		l.Soft = min(l.Soft, l.Hard)
	}
	return nil
}
