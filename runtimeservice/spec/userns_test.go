package spec

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func testUserNamespace() *runtimeapi.UserNamespace {
	ids := []*runtimeapi.IDMapping{{HostId: 131072, Length: 65536}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
}

// inUserNamespace gives the pod a user namespace of its own.
func inUserNamespace(in *Input) {
	in.Sandbox.Linux.SecurityContext.NamespaceOptions.UsernsOptions = testUserNamespace()
	in.Namespaces[specs.UserNamespace] = "/pins/user"
}

func findMount(t *testing.T, s *specs.Spec, destination string) specs.Mount {
	t.Helper()
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == destination })
	if i < 0 {
		t.Fatalf("no mount on %s in %v", destination, s.Mounts)
	}
	return s.Mounts[i]
}

func TestUserNamespaceIsJoined(t *testing.T) {
	for name, own := range map[string]*runtimeapi.UserNamespace{"a container that says nothing": nil, "one that says the same": testUserNamespace()} {
		in := testInput(t)
		inUserNamespace(&in)
		securityContext(&in).NamespaceOptions.UsernsOptions = own
		s, _ := mustBuild(t, in)
		want := specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/pins/user"}
		if !slices.Contains(s.Linux.Namespaces, want) {
			t.Errorf("%s: the namespaces are %v", name, s.Linux.Namespaces)
		}
		if m := findMount(t, s, "/sys"); m.Type != "sysfs" {
			t.Errorf("%s: /sys of a network namespace of its own is %v", name, m)
		}
	}
}

// What belongs to the node's namespaces cannot be mounted by the root of another user
// namespace, only seen.
func TestUserNamespaceWithTheNodesNamespaces(t *testing.T) {
	in := testInput(t)
	inUserNamespace(&in)
	for _, o := range []*runtimeapi.NamespaceOption{in.Sandbox.Linux.SecurityContext.NamespaceOptions, securityContext(&in).NamespaceOptions} {
		o.Network, o.Pid, o.Ipc = runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_NODE
	}
	s, _ := mustBuild(t, in)
	sys := findMount(t, s, "/sys")
	if sys.Type != "bind" || sys.Source != "/sys" || !slices.Contains(sys.Options, "rro") || slices.Contains(sys.Options, "ro") {
		t.Errorf("/sys is %v", sys)
	}
	if proc := findMount(t, s, "/proc"); proc.Type != "bind" || proc.Source != "/proc" || !slices.Contains(proc.Options, "nosuid") {
		t.Errorf("/proc is %v", proc)
	}
}

func TestSmallUserNamespaceHasNoTerminalGroup(t *testing.T) {
	in := testInput(t)
	inUserNamespace(&in)
	for _, r := range in.Sandbox.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Gids {
		r.Length = 5
	}
	securityContext(&in).SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
	s, _ := mustBuild(t, in)
	if m := findMount(t, s, "/dev/pts"); slices.Contains(m.Options, "gid=5") {
		t.Errorf("the terminals belong to a group that is not mapped: %v", m)
	}
}

func TestMappedMount(t *testing.T) {
	in := testInput(t)
	inUserNamespace(&in)
	in.Container.Mounts = []*runtimeapi.Mount{{
		HostPath: t.TempDir(), ContainerPath: "/data", UidMappings: testUserNamespace().Uids,
		GidMappings: []*runtimeapi.IDMapping{{ContainerId: 1, HostId: 2, Length: 3}},
	}}
	s, _ := mustBuild(t, in)
	m := findMount(t, s, "/data")
	if !slices.Equal(m.UIDMappings, []specs.LinuxIDMapping{{HostID: 131072, Size: 65536}}) ||
		!slices.Equal(m.GIDMappings, []specs.LinuxIDMapping{{ContainerID: 1, HostID: 2, Size: 3}}) {
		t.Errorf("the mappings are %v and %v", m.UIDMappings, m.GIDMappings)
	}
}

// A runtime cannot make nodes in a user namespace: it mounts the node's of the same path,
// which for another path would be another device.
func TestDevicesInAUserNamespace(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	in := testInput(t)
	inUserNamespace(&in)
	in.Container.Devices = []*runtimeapi.Device{
		{HostPath: "/dev/full", ContainerPath: "/dev/full", Permissions: "rw"},
		{HostPath: "/dev/null", ContainerPath: "/dev/mine", Permissions: "r"},
		{HostPath: link, ContainerPath: "/dev/linked", Permissions: "r"},
	}
	s, _ := mustBuild(t, in)
	if len(s.Linux.Devices) != 1 || s.Linux.Devices[0].Path != "/dev/full" {
		t.Errorf("the nodes are %v", s.Linux.Devices)
	}
	if m := findMount(t, s, "/dev/mine"); m.Source != "/dev/null" || m.Type != "bind" {
		t.Errorf("the device of another path is %v", m)
	}
	if m := findMount(t, s, "/dev/linked"); m.Source != "/dev/zero" {
		t.Errorf("the linked device is %v", m)
	}
	if got := len(s.Linux.Resources.Devices); got != 4 {
		t.Errorf("%d rules, want one for each device and the denial", got)
	}
}
