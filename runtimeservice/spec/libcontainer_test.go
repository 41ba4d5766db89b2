package spec

import (
	"slices"
	"testing"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/hostpath"
)

// toLibcontainer is what the monitor does with a specification.
func toLibcontainer(t *testing.T, in Input) *configs.Config {
	t.Helper()
	s, _ := mustBuild(t, in)
	c, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: in.ID, Spec: s})
	must(t, err)
	must(t, validate.Validate(c))
	return c
}

// TestAcceptedByLibcontainer: what Build makes is a configuration that
// libcontainer takes, and means there what it is meant to.
func TestAcceptedByLibcontainer(t *testing.T) {
	in := testInput(t)
	in.Rootfs = resolved(t, in.Rootfs)
	// The paths are not opened before the container starts, except for the
	// network's.
	in.Namespaces["network"] = "/proc/self/ns/net"
	in.Container.Tty = true
	in.Container.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/data", HostPath: t.TempDir(), Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/rw", HostPath: t.TempDir()},
	}
	in.Container.Devices = []*runtimeapi.Device{{HostPath: "/dev/kmsg", ContainerPath: "/dev/kmsg", Permissions: "r"}}
	in.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 2, MemoryLimitInBytes: 1 << 24, OomScoreAdj: 900}
	securityContext(&in).Seccomp = &runtimeapi.SecurityProfile{}
	c := toLibcontainer(t, in)

	rules := c.Cgroups.Devices
	if first := rules[0]; first.Allow || first.Type != devices.WildcardDevice || first.Permissions != "rwm" {
		t.Errorf("the first device rule is %+v, not a denial of everything", first)
	}
	allows := func(major, minor int64, perms devices.Permissions) bool {
		return slices.ContainsFunc(rules, func(r *devices.Rule) bool {
			return r.Allow && r.Type == devices.CharDevice && r.Major == major && r.Minor == minor && r.Permissions == perms
		})
	}
	if !allows(1, 3, "rwm") || !allows(1, 11, "r") || allows(1, 1, "rwm") {
		t.Error("/dev/null and /dev/kmsg should be allowed, /dev/mem not")
	}
	if c.Cgroups.Resources.Memory != 1<<24 || *c.OomScoreAdj != 900 || c.Seccomp == nil {
		t.Errorf("limits are %+v", c.Cgroups.Resources)
	}
	i := slices.IndexFunc(c.Mounts, func(m *configs.Mount) bool { return m.Destination == "/data" })
	if i < 0 || c.Mounts[i].RecAttr == nil || c.Mounts[i].RecAttr.Attr_set&unix.MOUNT_ATTR_RDONLY == 0 {
		t.Error("/data is not read-only all the way down")
	}
}

func TestPrivilegedAcceptedByLibcontainer(t *testing.T) {
	in := testInput(t)
	in.Rootfs = resolved(t, in.Rootfs)
	in.Namespaces["network"] = "/proc/self/ns/net"
	in.Sandbox.Linux.SecurityContext.Privileged = true
	securityContext(&in).Privileged = true
	c := toLibcontainer(t, in)
	if !slices.ContainsFunc(c.Cgroups.Devices, func(r *devices.Rule) bool {
		return r.Allow && r.Type == devices.WildcardDevice && r.Major == devices.Wildcard && r.Minor == devices.Wildcard && r.Permissions == "rwm"
	}) {
		t.Error("the devices of a privileged container are restricted")
	}
}

func resolved(t *testing.T, name string) string {
	t.Helper()
	p, err := hostpath.New("").Resolve(t.Context(), name)
	must(t, err)
	return p.Name
}
