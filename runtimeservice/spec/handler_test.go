package spec

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a handler says of its containers.
func TestDefaultsOfAHandler(t *testing.T) {
	in := testInput(t)
	file := filepath.Join(t.TempDir(), "profile.json")
	writeFile(t, file, `{"defaultAction":"SCMP_ACT_LOG"}`)
	in.Defaults.SeccompFile = file
	in.Defaults.ReadonlyRootfs = true
	in.Defaults.CgroupWritable = true
	in.Host.CgroupV2 = true
	securityContext(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	s, _ := mustBuild(t, in)
	if s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction != specs.ActLog {
		t.Errorf("profile is %+v", s.Linux.Seccomp)
	}
	if !s.Root.Readonly {
		t.Error("the root file system is writable")
	}
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/sys/fs/cgroup" })
	if i < 0 || !slices.Contains(s.Mounts[i].Options, "rw") {
		t.Errorf("mounts are %+v", s.Mounts)
	}
}

func TestPrivilegedWithoutHostDevices(t *testing.T) {
	for _, without := range []bool{false, true} {
		in := testInput(t)
		in.Sandbox.Linux.SecurityContext.Privileged = true
		securityContext(&in).Privileged = true
		in.Defaults.PrivilegedWithoutHostDevices = without
		s, _ := mustBuild(t, in)
		if all := s.Linux.Resources.Devices[0].Allow; all == without || without && len(s.Linux.Devices) > 0 {
			t.Errorf("without the node's devices: %t, all are allowed: %t, devices %+v", without, all, s.Linux.Devices)
		}
	}
}
