package nri

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func (a Adjuster) adjustLinux(spec *specs.Spec, adjust *api.ContainerAdjustment) error {
	linux := adjust.GetLinux()
	if linux == nil {
		return nil
	}
	adjustProcess(spec.Process, linux)
	if cgroup := linux.GetCgroupsPath(); cgroup != "" {
		spec.Linux.CgroupsPath = cgroup
	}
	if policy := linux.GetSeccompPolicy(); policy != nil {
		spec.Linux.Seccomp = seccompPolicy(policy)
	}
	if policy := linux.GetMemoryPolicy().ToOCI(); policy != nil {
		spec.Linux.MemoryPolicy = policy
		if policy.Mode == "" {
			spec.Linux.MemoryPolicy = nil
		}
	}
	spec.Linux.Sysctl = adjustMap(spec.Linux.Sysctl, linux.GetSysctl(), func(v string) string { return v })
	spec.Linux.NetDevices = adjustMap(spec.Linux.NetDevices, linux.GetNetDevices(), (*api.LinuxNetDevice).ToOCI)
	if err := adjustDevices(spec.Linux, linux.GetDevices()); err != nil {
		return err
	}
	if err := adjustNamespaces(spec.Linux, linux.GetNamespaces()); err != nil {
		return err
	}
	resources, err := a.AdjustResources(spec.Linux.Resources, linux.GetResources())
	if err != nil {
		return err
	}
	spec.Linux.Resources = resources
	if err := a.adjustRDTClass(spec.Linux, linux.GetResources().GetRdtClass()); err != nil {
		return err
	}
	adjustRDT(spec.Linux, linux.GetRdt())
	return nil
}

func adjustProcess(process *specs.Process, linux *api.LinuxContainerAdjustment) {
	if score := linux.GetOomScoreAdj(); score != nil {
		value := int(score.GetValue())
		process.OOMScoreAdj = &value
	}
	if priority := linux.GetIoPriority().ToOCI(); priority != nil {
		process.IOPriority = priority
		if priority.Class == "" {
			process.IOPriority = nil
		}
	}
	if scheduler := linux.GetScheduler(); scheduler != nil {
		process.Scheduler = scheduler.ToOCI()
	}
}

func seccompPolicy(policy *api.LinuxSeccomp) *specs.LinuxSeccomp {
	out := &specs.LinuxSeccomp{
		DefaultAction:    specs.LinuxSeccompAction(policy.GetDefaultAction()),
		ListenerPath:     policy.GetListenerPath(),
		ListenerMetadata: policy.GetListenerMetadata(),
		Syscalls:         api.ToOCILinuxSyscalls(policy.GetSyscalls()),
	}
	if errno := policy.GetDefaultErrno(); errno != nil {
		value := uint(errno.GetValue())
		out.DefaultErrnoRet = &value
	}
	for _, arch := range policy.GetArchitectures() {
		out.Architectures = append(out.Architectures, specs.Arch(arch))
	}
	for _, flag := range policy.GetFlags() {
		out.Flags = append(out.Flags, specs.LinuxSeccompFlag(flag))
	}
	return out
}

// adjustDevices adds devices with the rule that lets the container use them.
func adjustDevices(linux *specs.Linux, devices []*api.LinuxDevice) error {
	for _, d := range devices {
		where, removed := d.IsMarkedForRemoval()
		if !path.IsAbs(where) {
			return invalid("device at %q: not an absolute path", where)
		}
		removeDevice(linux, where)
		if removed {
			continue
		}
		linux.Devices = append(linux.Devices, d.ToOCI())
		linux.Resources.Devices = append(linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.GetType(), Major: &d.Major, Minor: &d.Minor, Access: d.AccessString(),
		})
	}
	return nil
}

// removeDevice takes a device away with the rules that allow just it.
func removeDevice(linux *specs.Linux, where string) {
	at := slices.IndexFunc(linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == where })
	if at < 0 {
		return
	}
	gone := linux.Devices[at]
	linux.Devices = slices.Delete(linux.Devices, at, at+1)
	linux.Resources.Devices = slices.DeleteFunc(linux.Resources.Devices, func(rule specs.LinuxDeviceCgroup) bool {
		return rule.Allow && rule.Type == gone.Type && rule.Major != nil && *rule.Major == gone.Major &&
			rule.Minor != nil && *rule.Minor == gone.Minor
	})
}

var namespaceTypes = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
	specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
}

func adjustNamespaces(linux *specs.Linux, namespaces []*api.LinuxNamespace) error {
	for _, n := range namespaces {
		name, removed := n.IsMarkedForRemoval()
		kind := specs.LinuxNamespaceType(name)
		if !slices.Contains(namespaceTypes, kind) {
			return invalid("namespace %q: no such type", name)
		}
		at := slices.IndexFunc(linux.Namespaces, func(have specs.LinuxNamespace) bool { return have.Type == kind })
		next := specs.LinuxNamespace{Type: kind, Path: n.GetPath()}
		switch {
		case removed && at >= 0:
			linux.Namespaces = slices.Delete(linux.Namespaces, at, at+1)
		case removed:
		case at >= 0:
			linux.Namespaces[at] = next
		default:
			linux.Namespaces = append(linux.Namespaces, next)
		}
	}
	return nil
}

func (a Adjuster) adjustRDTClass(linux *specs.Linux, class *api.OptionalString) error {
	switch {
	case class == nil:
		return nil
	case class.GetValue() == "":
		linux.IntelRdt = nil
		return nil
	case a.RDT == nil:
		return noClass("RDT", class.GetValue())
	}
	rdt, err := a.RDT(class.GetValue())
	if err != nil {
		return fmt.Errorf("RDT class %q: %w", class.GetValue(), err)
	}
	linux.IntelRdt = rdt
	return nil
}

func noClass(kind, name string) error {
	return fmt.Errorf("%s class %q: this runtime has no classes: %w", kind, name, errdefs.ErrFailedPrecondition)
}

func adjustRDT(linux *specs.Linux, rdt *api.LinuxRdt) {
	if rdt == nil {
		return
	}
	if rdt.GetRemove() {
		linux.IntelRdt = nil
	}
	if rdt.GetClosId() == nil && rdt.GetSchemata() == nil && rdt.GetEnableMonitoring() == nil {
		return
	}
	if linux.IntelRdt == nil {
		linux.IntelRdt = &specs.LinuxIntelRdt{}
	}
	if id := rdt.GetClosId(); id != nil {
		linux.IntelRdt.ClosID = id.GetValue()
	}
	if schemata := rdt.GetSchemata(); schemata != nil {
		linux.IntelRdt.Schemata = slices.Clone(schemata.GetValue())
	}
	if monitor := rdt.GetEnableMonitoring(); monitor != nil {
		linux.IntelRdt.EnableMonitoring = monitor.GetValue()
	}
}

// AdjustResources returns limits with those of a plugin in place of former ones, for
// a new container and for one that is updated alike. What a plugin does not name
// stays. The limits that are given do not change.
func (a Adjuster) AdjustResources(old *specs.LinuxResources, r *api.LinuxResources) (*specs.LinuxResources, error) {
	next := specs.LinuxResources{}
	if old != nil {
		next = *old
	}
	if r == nil {
		return &next, nil
	}
	next.CPU = adjustCPU(next.CPU, r.GetCpu())
	next.Memory = adjustMemory(next.Memory, r.GetMemory())
	next.HugepageLimits = adjustHugepages(next.HugepageLimits, r.GetHugepageLimits())
	if len(r.GetUnified()) > 0 {
		unified := maps.Clone(next.Unified)
		if unified == nil {
			unified = make(map[string]string, len(r.GetUnified()))
		}
		maps.Copy(unified, r.GetUnified())
		next.Unified = unified
	}
	if pids := r.GetPids(); pids != nil {
		limit := pids.GetLimit()
		next.Pids = &specs.LinuxPids{Limit: &limit}
	}
	next.Devices = slices.Clone(next.Devices)
	for _, d := range r.GetDevices() {
		next.Devices = append(next.Devices, specs.LinuxDeviceCgroup{
			Allow: d.GetAllow(), Type: d.GetType(), Major: d.GetMajor().Get(), Minor: d.GetMinor().Get(), Access: d.GetAccess(),
		})
	}
	return &next, a.adjustBlockIO(&next, r.GetBlockioClass())
}

func (a Adjuster) adjustBlockIO(next *specs.LinuxResources, class *api.OptionalString) error {
	switch {
	case class == nil:
		return nil
	case class.GetValue() == "":
		next.BlockIO = nil
		return nil
	case a.BlockIO == nil:
		return noClass("block I/O", class.GetValue())
	}
	blockIO, err := a.BlockIO(class.GetValue())
	if err != nil {
		return fmt.Errorf("block I/O class %q: %w", class.GetValue(), err)
	}
	next.BlockIO = blockIO
	return nil
}

// set takes over a value that is there.
func set[T any](to **T, from *T) {
	if from != nil {
		*to = from
	}
}

func adjustCPU(old *specs.LinuxCPU, cpu *api.LinuxCPU) *specs.LinuxCPU {
	if cpu == nil {
		return old
	}
	next := specs.LinuxCPU{}
	if old != nil {
		next = *old
	}
	set(&next.Shares, cpu.GetShares().Get())
	set(&next.Quota, cpu.GetQuota().Get())
	set(&next.Period, cpu.GetPeriod().Get())
	set(&next.RealtimeRuntime, cpu.GetRealtimeRuntime().Get())
	set(&next.RealtimePeriod, cpu.GetRealtimePeriod().Get())
	if cpu.GetCpus() != "" {
		next.Cpus = cpu.GetCpus()
	}
	if cpu.GetMems() != "" {
		next.Mems = cpu.GetMems()
	}
	return &next
}

// adjustMemory keeps memory and swap together where only the memory's limit is
// given: a container without swap has none afterwards.
func adjustMemory(old *specs.LinuxMemory, memory *api.LinuxMemory) *specs.LinuxMemory {
	if memory == nil {
		return old
	}
	next := specs.LinuxMemory{}
	if old != nil {
		next = *old
	}
	if limit := memory.GetLimit().Get(); limit != nil && *limit != 0 {
		if next.Swap != nil && memory.GetSwap() == nil {
			next.Swap = limit
		}
		next.Limit = limit
	}
	if swap := memory.GetSwap().Get(); swap != nil && *swap != 0 {
		next.Swap = swap
	}
	set(&next.Reservation, memory.GetReservation().Get())
	//lint:ignore SA1019 deprecated, and plugins still ask for it
	set(&next.Kernel, memory.GetKernel().Get())
	set(&next.KernelTCP, memory.GetKernelTcp().Get())
	set(&next.Swappiness, memory.GetSwappiness().Get())
	set(&next.DisableOOMKiller, memory.GetDisableOomKiller().Get())
	set(&next.UseHierarchy, memory.GetUseHierarchy().Get())
	return &next
}

func adjustHugepages(old []specs.LinuxHugepageLimit, limits []*api.HugepageLimit) []specs.LinuxHugepageLimit {
	next := slices.Clone(old)
	for _, l := range limits {
		limit := specs.LinuxHugepageLimit{Pagesize: l.GetPageSize(), Limit: l.GetLimit()}
		at := slices.IndexFunc(next, func(have specs.LinuxHugepageLimit) bool { return have.Pagesize == limit.Pagesize })
		if at >= 0 {
			next[at] = limit
		} else {
			next = append(next, limit)
		}
	}
	return next
}
