package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// rlimitNumbers are the limits of getrlimit(2) by their name.
var rlimitNumbers = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK": unix.RLIMIT_STACK,
}

func knownRlimit(name string) bool {
	_, ok := rlimitNumbers[name]
	return ok
}

// DetectHost finds out what this machine and this process can do. Containers are
// children of a process that this one starts, which has no more rights than it.
func DetectHost() (*Host, error) {
	h := &Host{HardRlimits: make(map[string]uint64, len(rlimitNumbers))}
	var err error
	if h.CgroupV2, err = isCgroupV2("/sys/fs/cgroup"); err != nil {
		return nil, err
	}
	h.SwapLimit = canLimitSwap("/sys/fs/cgroup", "/proc/self/cgroup", h.CgroupV2)
	h.HugepageSizes = hugepageSizes("/sys/fs/cgroup", "/sys/kernel/mm/hugepages", h.CgroupV2)
	h.ThermalPaths, _ = filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle")
	if h.Capabilities, h.CanRaiseLimits, err = ownCapabilities(); err != nil {
		return nil, err
	}
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return nil, fmt.Errorf("read the daemon's OOM score: %w", err)
	}
	if h.OOMScoreAdj, err = strconv.Atoi(string(bytes.TrimSpace(score))); err != nil {
		return nil, fmt.Errorf("read the daemon's OOM score: %w", err)
	}
	for name, n := range rlimitNumbers {
		var l unix.Rlimit
		if err := unix.Getrlimit(n, &l); err != nil {
			return nil, fmt.Errorf("read the daemon's %s: %w", name, err)
		}
		h.HardRlimits[name] = l.Max
	}
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	_, err = os.Stat("/sys/kernel/security/apparmor")
	h.AppArmor = err == nil && bytes.HasPrefix(enabled, []byte("Y"))
	return h, nil
}

func isCgroupV2(mountpoint string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(mountpoint, &st); err != nil {
		return false, fmt.Errorf("look for cgroups at %s: %w", mountpoint, err)
	}
	return st.Type == unix.CGROUP2_SUPER_MAGIC, nil
}

// canLimitSwap looks for the kernel's swap limit. On cgroup v2 only a cgroup that
// is not the root has the file, so the daemon's own is asked, or any other.
func canLimitSwap(mountpoint, selfCgroup string, v2 bool) bool {
	if !v2 {
		_, err := os.Stat(filepath.Join(mountpoint, "memory/memory.memsw.limit_in_bytes"))
		return err == nil
	}
	if own, err := os.ReadFile(selfCgroup); err == nil {
		if _, p, ok := strings.Cut(string(own), "0::"); ok {
			p, _, _ = strings.Cut(p, "\n")
			if _, err := os.Stat(filepath.Join(mountpoint, p, "memory.swap.max")); err == nil {
				return true
			}
		}
	}
	some, _ := filepath.Glob(filepath.Join(mountpoint, "*/memory.swap.max"))
	return len(some) > 0
}

// hugepageSizes lists the page sizes that the hugetlb controller can limit.
func hugepageSizes(mountpoint, sizesDir string, v2 bool) []string {
	if v2 {
		controllers, _ := os.ReadFile(filepath.Join(mountpoint, "cgroup.controllers"))
		if !slices.Contains(strings.Fields(string(controllers)), "hugetlb") {
			return nil
		}
	} else if _, err := os.Stat(filepath.Join(mountpoint, "hugetlb")); err != nil {
		return nil
	}
	dirs, _ := os.ReadDir(sizesDir)
	var sizes []string
	for _, d := range dirs {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(d.Name(), "hugepages-"), "kB"), 10, 64)
		if err == nil {
			sizes = append(sizes, pageSizeName(kb))
		}
	}
	return sizes
}

func pageSizeName(kb uint64) string {
	switch {
	case kb >= 1<<20 && kb%(1<<20) == 0:
		return strconv.FormatUint(kb>>20, 10) + "GB"
	case kb >= 1<<10 && kb%(1<<10) == 0:
		return strconv.FormatUint(kb>>10, 10) + "MB"
	}
	return strconv.FormatUint(kb, 10) + "KB"
}

// ownCapabilities gives the process's bounding set, without what it may not use
// itself, and whether it may raise limits. In a user namespace CAP_SYS_RESOURCE
// does not count for OOM scores and hard limits.
func ownCapabilities() (names []string, canRaise bool, err error) {
	caps, err := capability.NewPid2(0)
	if err != nil {
		return nil, false, fmt.Errorf("read the daemon's capabilities: %w", err)
	}
	if err := caps.Load(); err != nil {
		return nil, false, fmt.Errorf("read the daemon's capabilities: %w", err)
	}
	for _, c := range capability.ListKnown() {
		if caps.Get(capability.BOUNDING, c) && caps.Get(capability.PERMITTED, c) {
			names = append(names, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	canRaise = caps.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE)
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("read the daemon's user namespace: %w", err)
	}
	if f := strings.Fields(string(uidMap)); len(f) > 0 && !slices.Equal(f, []string{"0", "0", "4294967295"}) {
		canRaise = false
	}
	return names, canRaise, nil
}
