package nri

import (
	"maps"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Describe puts what a specification says of a container into the message for
// plugins. The message shares nothing with the specification that the library changes.
func Describe(c *api.Container, spec *specs.Spec) {
	annotations := maps.Clone(c.GetAnnotations())
	if annotations == nil {
		annotations = make(map[string]string, len(spec.Annotations))
	}
	maps.Copy(annotations, spec.Annotations)
	c.Annotations = annotations
	c.Mounts = api.FromOCIMounts(spec.Mounts)
	c.Hooks = api.FromOCIHooks(spec.Hooks)
	c.Linux = &api.LinuxContainer{}
	if process := spec.Process; process != nil {
		describeProcess(c, process)
	}
	if linux := spec.Linux; linux != nil {
		describeLinux(c.Linux, linux)
	}
}

func describeProcess(c *api.Container, process *specs.Process) {
	c.Args = api.DupStringSlice(process.Args)
	c.Env = api.DupStringSlice(process.Env)
	c.User = &api.User{
		Uid: process.User.UID, Gid: process.User.GID, AdditionalGids: append([]uint32(nil), process.User.AdditionalGids...),
	}
	for _, limit := range process.Rlimits {
		c.Rlimits = append(c.Rlimits, &api.POSIXRlimit{Type: limit.Type, Hard: limit.Hard, Soft: limit.Soft})
	}
	c.Linux.OomScoreAdj = api.Int(process.OOMScoreAdj)
	c.Linux.IoPriority = api.FromOCILinuxIOPriority(process.IOPriority)
	c.Linux.Scheduler = api.FromOCILinuxScheduler(process.Scheduler)
}

func describeLinux(to *api.LinuxContainer, linux *specs.Linux) {
	to.Namespaces = api.FromOCILinuxNamespaces(linux.Namespaces)
	to.Devices = api.FromOCILinuxDevices(linux.Devices)
	to.Resources = api.FromOCILinuxResources(linux.Resources, nil)
	to.CgroupsPath = linux.CgroupsPath
	to.Sysctl = maps.Clone(linux.Sysctl)
	to.NetDevices = api.FromOCILinuxNetDevices(linux.NetDevices)
	if linux.Seccomp != nil {
		to.SeccompPolicy = api.FromOCILinuxSeccomp(linux.Seccomp)
	}
	if rdt := linux.IntelRdt; rdt != nil {
		to.Rdt = &api.LinuxRdt{
			ClosId:           api.String(rdt.ClosID),
			Schemata:         api.RepeatedString(rdt.Schemata),
			EnableMonitoring: api.Bool(rdt.EnableMonitoring),
		}
	}
}
