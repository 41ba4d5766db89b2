package spec

import "github.com/berth-cri/berth/runtimeservice/hostpath"

// Host is what the machine and the daemon on it can do, as far as a container's
// specification depends on it. DetectHost fills it; a test writes its own. It is not to be copied
// nor changed once in use, and is then safe for concurrent use.
type Host struct {
	// CgroupV2 is true where /sys/fs/cgroup is the unified hierarchy.
	CgroupV2 bool
	// SwapLimit is true where the kernel can limit swap per cgroup.
	SwapLimit bool
	// HugepageSizes are the sizes that the kernel can limit, as in "2MB".
	HugepageSizes []string
	// Capabilities are those of the daemon's bounding set: no container can have
	// more.
	Capabilities []string
	// CanRaiseLimits is true with CAP_SYS_RESOURCE: OOM scores below the
	// daemon's own and hard limits above its own may be set.
	CanRaiseLimits bool
	// OOMScoreAdj is the daemon's own score adjustment, the least that a
	// container can have where CanRaiseLimits is false.
	OOMScoreAdj int
	// HardRlimits are the daemon's own hard limits by name, as in
	// "RLIMIT_NOFILE"; a limit above is clamped where CanRaiseLimits is false.
	HardRlimits map[string]uint64
	// ThermalPaths tell how hot the node's processors are, and by that what runs
	// beside a container; they are hidden with DefaultMaskedPaths.
	ThermalPaths []string
	// AppArmor is true where the kernel enforces it.
	AppArmor bool

	// Paths looks at the node's paths; nil has it done by this process.
	Paths *hostpath.Resolver

	seccomp seccompCache
}

func (h *Host) paths() *hostpath.Resolver {
	if h == nil || h.Paths == nil {
		return hostpath.New("")
	}
	return h.Paths
}
