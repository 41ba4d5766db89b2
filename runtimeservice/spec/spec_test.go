package spec

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	testPasswd = "# accounts\nroot:x:0:0:root:/root:/bin/sh\nbin:x:1:1::/bin:/bin/false\n+nis::::::\n" +
		"app:x:1000:1001:App:/home/app:/bin/sh\nnohome:x:1002:1002\nmangled:x:abc:5::/:/bin/sh\nhuge:x:4294967296:0::/:/bin/sh\n" +
		"biggid:x:1003:2147483648::/:\n1234:x:0:0::/root:/bin/sh\n4294967296:x:0:0::/root:/bin/sh\nevil:x:1004:1004::/x\x01y:/bin/sh"
	testGroup = "root:x:0:root\nwheel:x:10:root,app\napp:x:1001:\nextra:x:50000:other, app\nbad:x:-4:app\nhugegroup:x:99999999999:app\n"
)

// testHost is a machine with cgroup v2 and a daemon that may do everything but
// CAP_SYS_RESOURCE.
func testHost() *Host {
	var caps []string
	for name := range knownCapabilities() {
		if name != "CAP_SYS_RESOURCE" {
			caps = append(caps, name)
		}
	}
	return &Host{
		CgroupV2: true, SwapLimit: true, HugepageSizes: []string{"2MB", "1GB"}, Capabilities: caps, OOMScoreAdj: 5,
		HardRlimits: map[string]uint64{"RLIMIT_NOFILE": 4096},
	}
}

func testRootfs(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(root, "etc/passwd"), testPasswd)
	writeFile(t, filepath.Join(root, "etc/group"), testGroup)
	return root
}

func writeFile(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// testInput is what a kubelet sends for a small pod.
func testInput(t testing.TB) Input {
	t.Helper()
	opts := func() *runtimeapi.NamespaceOption {
		return &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	}
	return Input{
		ID: "c1",
		Sandbox: &runtimeapi.PodSandboxConfig{Hostname: "web-0", Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: opts()}}},
		Container: &runtimeapi.ContainerConfig{Command: []string{"/bin/true"}, Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: opts(), MaskedPaths: DefaultMaskedPaths(), ReadonlyPaths: DefaultReadonlyPaths()}}},
		Image:  &ocispec.Image{},
		Rootfs: testRootfs(t),
		Namespaces: map[specs.LinuxNamespaceType]string{
			specs.NetworkNamespace: "/run/net", specs.IPCNamespace: "/run/ipc", specs.UTSNamespace: "/run/uts"},
		PodFiles:    PodFiles{ResolvConf: "/run/resolv.conf", Hostname: "/run/hostname", Shm: "/run/shm"},
		CgroupsPath: "/kubepods/pod1/c1",
		Host:        testHost(),
	}
}

func securityContext(in *Input) *runtimeapi.LinuxContainerSecurityContext {
	return in.Container.Linux.SecurityContext
}

func mustBuild(t testing.TB, in Input) (*specs.Spec, *Resolved) {
	t.Helper()
	s, r, err := Build(t.Context(), in)
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	return s, r
}

// wantError checks kind and the beginning of the text, which is the field's path.
func wantError(t *testing.T, err, kind error, field string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.HasPrefix(err.Error(), field) {
		t.Errorf("error is %v, want %v at %s", err, kind, field)
	}
}

func wantEqual(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s is\n %#v, want\n %#v", what, got, want)
	}
}

// TestBadRequests changes one field of a good request and expects the error to
// name it.
func TestBadRequests(t *testing.T) {
	const sc = "config.linux.security_context."
	tests := []struct {
		field  string
		kind   error
		change func(*Input)
	}{
		{"config", errdefs.ErrInvalidArgument, func(in *Input) { in.Container = nil }},
		{"sandbox_config", errdefs.ErrInvalidArgument, func(in *Input) { in.Sandbox = nil }},
		{"config.stop_signal", errdefs.ErrInvalidArgument, func(in *Input) { in.Container.StopSignal = 99 }},
		{"image stop signal", errdefs.ErrInvalidArgument, func(in *Input) { in.Image.Config.StopSignal = "SIGNOPE" }},
		{"config.working_dir", errdefs.ErrInvalidArgument, func(in *Input) { in.Container.WorkingDir = "relative" }},
		{"sandbox_config.hostname", errdefs.ErrInvalidArgument, func(in *Input) { in.Sandbox.Hostname = "a\x00b" }},
		{sc + "privileged", errdefs.ErrInvalidArgument, func(in *Input) { securityContext(in).Privileged = true }},
		{sc + "masked_paths[0]", errdefs.ErrInvalidArgument, func(in *Input) { securityContext(in).MaskedPaths = []string{"proc/kcore"} }},
		{sc + "readonly_paths[1]", errdefs.ErrInvalidArgument, func(in *Input) { securityContext(in).ReadonlyPaths = []string{"/proc", "/.."} }},
		{sc + "capabilities.add_capabilities[0]", errdefs.ErrInvalidArgument, func(in *Input) {
			securityContext(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}}
		}},
		{sc + "seccomp.localhost_ref", errdefs.ErrInvalidArgument, func(in *Input) {
			securityContext(in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		}},
		{sc + "seccomp.localhost_ref", errdefs.ErrInvalidArgument, func(in *Input) {
			securityContext(in).Seccomp = &runtimeapi.SecurityProfile{LocalhostRef: "/x"}
		}},
		{sc + "seccomp.profile_type", errdefs.ErrInvalidArgument, func(in *Input) {
			securityContext(in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: 7}
		}},
		//lint:ignore SA1019 clients still send it
		{sc + "seccomp_profile_path", errdefs.ErrInvalidArgument, func(in *Input) { securityContext(in).SeccompProfilePath = "nonsense" }},
		//lint:ignore SA1019 clients still send it
		{sc + "apparmor_profile", errdefs.ErrFailedPrecondition, func(in *Input) { securityContext(in).ApparmorProfile = "localhost/mine" }},
		{sc + "namespace_options.network", errdefs.ErrInvalidArgument, func(in *Input) {
			securityContext(in).NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
		}},
		{sc + "namespace_options.ipc", errdefs.ErrInvalidArgument, func(in *Input) {
			securityContext(in).NamespaceOptions.Ipc = runtimeapi.NamespaceMode_TARGET
		}},
		{sc + "namespace_options.ipc", errdefs.ErrInvalidArgument, func(in *Input) { securityContext(in).NamespaceOptions.Ipc = 42 }},
		{sc + "namespace_options.pid", errdefs.ErrInvalidArgument, func(in *Input) { securityContext(in).NamespaceOptions.Pid = 42 }},
		{sc + "namespace_options.pid", errdefs.ErrFailedPrecondition, func(in *Input) {
			securityContext(in).NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		}},
		{sc + "namespace_options.target_id", errdefs.ErrInvalidArgument, func(in *Input) {
			securityContext(in).NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		}},
		{sc + "namespace_options.userns_options", errdefs.ErrInvalidArgument, func(in *Input) {
			securityContext(in).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{}
		}},
		{sc + "namespace_options.userns_options", errdefs.ErrFailedPrecondition, func(in *Input) {
			in.Sandbox.Linux.SecurityContext.NamespaceOptions.UsernsOptions = testUserNamespace()
		}},
		{sc + "run_as_user", errdefs.ErrInvalidArgument, func(in *Input) {
			inUserNamespace(in)
			securityContext(in).RunAsUser = &runtimeapi.Int64Value{Value: 65536}
		}},
		{sc + "run_as_group", errdefs.ErrInvalidArgument, func(in *Input) {
			inUserNamespace(in)
			securityContext(in).RunAsUser = &runtimeapi.Int64Value{Value: 1}
			securityContext(in).RunAsGroup = &runtimeapi.Int64Value{Value: 65536}
		}},
		{sc + "supplemental_groups", errdefs.ErrInvalidArgument, func(in *Input) {
			inUserNamespace(in)
			securityContext(in).SupplementalGroups = []int64{70000}
		}},
		{"config.mounts[0].uidMappings", errdefs.ErrInvalidArgument, func(in *Input) {
			in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: "/", UidMappings: testUserNamespace().Uids}}
		}},
	}
	for _, tc := range tests {
		t.Run(tc.field, func(t *testing.T) {
			in := testInput(t)
			tc.change(&in)
			_, _, err := Build(t.Context(), in)
			wantError(t, err, tc.kind, tc.field+": ")
		})
	}
}

func TestNamespaces(t *testing.T) {
	const pod, own, node, target = runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_TARGET
	paths := map[specs.LinuxNamespaceType]string{"network": "/n", "ipc": "/i", "uts": "/u", "pid": "/p"}
	tests := []struct {
		name         string
		sandbox, ctr *runtimeapi.NamespaceOption
		want         string
	}{
		{"kubelet's usual", &runtimeapi.NamespaceOption{Pid: own}, &runtimeapi.NamespaceOption{Pid: own}, "mount network=/n ipc=/i pid uts=/u cgroup"},
		{"CRI's default is to share", nil, nil, "mount network=/n ipc=/i pid=/p uts=/u cgroup"},
		{"node", &runtimeapi.NamespaceOption{Network: node, Pid: node, Ipc: node}, &runtimeapi.NamespaceOption{Network: node, Pid: node, Ipc: node}, "mount cgroup"},
		{"container silent in a node pod", &runtimeapi.NamespaceOption{Network: node, Pid: node, Ipc: node}, nil, "mount cgroup"},
		{"container's zero value in a node pod", &runtimeapi.NamespaceOption{Network: node, Ipc: node}, &runtimeapi.NamespaceOption{}, "mount pid=/p cgroup"},
		{"target", nil, &runtimeapi.NamespaceOption{Pid: target, TargetId: "c0"}, "mount network=/n ipc=/i pid=/p uts=/u cgroup"},
		{"all to itself", nil, &runtimeapi.NamespaceOption{Network: own, Ipc: own, Pid: own}, "mount network ipc pid uts=/u cgroup"},
		{"node's user namespace", nil, &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: node}}, "mount network=/n ipc=/i pid=/p uts=/u cgroup"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			in.Namespaces = paths
			in.Sandbox.Linux.SecurityContext.NamespaceOptions = tc.sandbox
			securityContext(&in).NamespaceOptions = tc.ctr
			s, _ := mustBuild(t, in)
			var got []string
			for _, ns := range s.Linux.Namespaces {
				entry := string(ns.Type)
				if ns.Path != "" {
					entry += "=" + ns.Path
				}
				got = append(got, entry)
			}
			wantEqual(t, "namespaces", strings.Join(got, " "), tc.want)
		})
	}
}

func TestCgroupNamespace(t *testing.T) {
	in := testInput(t)
	in.Host.CgroupV2 = false
	s, _ := mustBuild(t, in)
	if slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.CgroupNamespace }) {
		t.Error("cgroup v1 container has a cgroup namespace")
	}
}

func TestPrivileged(t *testing.T) {
	in := testInput(t)
	in.Sandbox.Linux.SecurityContext.Privileged = true
	sc := securityContext(&in)
	sc.Privileged = true
	sc.Seccomp = &runtimeapi.SecurityProfile{}
	sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
	s, _ := mustBuild(t, in)

	caps := s.Process.Capabilities
	if len(caps.Bounding) != len(knownCapabilities())-1 || slices.Contains(caps.Bounding, "CAP_SYS_RESOURCE") {
		t.Errorf("capabilities are %v, want all of the host's", caps.Bounding)
	}
	if len(caps.Inheritable)+len(caps.Ambient) != 0 {
		t.Errorf("inheritable %v, ambient %v", caps.Inheritable, caps.Ambient)
	}
	if s.Linux.Seccomp != nil || s.Linux.MaskedPaths != nil || s.Linux.ReadonlyPaths != nil {
		t.Error("a privileged container is confined")
	}
	wantEqual(t, "device rules", s.Linux.Resources.Devices, []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}})
	if !slices.ContainsFunc(s.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == "/dev/null" }) {
		t.Error("the node's devices are missing")
	}
	if slices.ContainsFunc(s.Linux.Devices, func(d specs.LinuxDevice) bool {
		return strings.HasPrefix(d.Path, "/dev/pts/") || d.Path == "/dev/console" || d.Path == "/dev/ptmx"
	}) {
		t.Error("the node's terminals are passed on")
	}
	for _, m := range s.Mounts {
		if strings.HasPrefix(m.Destination, "/sys") && !slices.Contains(m.Options, "rw") {
			t.Errorf("%s is mounted %v", m.Destination, m.Options)
		}
		if m.Destination == "/sys/fs/cgroup" && m.Type != "bind" {
			t.Error("a new cgroup2 mount in the node's namespace changes the node's mount options")
		}
	}
	if slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.CgroupNamespace }) {
		t.Error("a privileged container has a cgroup namespace of its own")
	}
}

func TestHiddenPaths(t *testing.T) {
	in := testInput(t)
	in.Host.ThermalPaths = []string{"/sys/devices/system/cpu/cpu0/thermal_throttle"}
	s, _ := mustBuild(t, in)
	wantEqual(t, "masked paths", s.Linux.MaskedPaths, DefaultMaskedPaths())

	securityContext(&in).MaskedPaths, securityContext(&in).ReadonlyPaths = nil, nil
	s, _ = mustBuild(t, in)
	if len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) != 0 {
		t.Error("procMount: Unmasked is masked")
	}

	in.Container.Linux = nil
	in.Sandbox.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_CONTAINER
	s, _ = mustBuild(t, in)
	for _, p := range []string{"/proc/kcore", "/sys/devices/virtual/powercap", "/proc/interrupts", "/sys/devices/system/cpu/cpu0/thermal_throttle"} {
		if !slices.Contains(s.Linux.MaskedPaths, p) {
			t.Errorf("%s is not masked by default", p)
		}
	}
	wantEqual(t, "read-only paths", s.Linux.ReadonlyPaths, DefaultReadonlyPaths())
}

func TestImageIsNoControlData(t *testing.T) {
	in := testInput(t)
	in.Image.Config.Labels = map[string]string{"org.systemd.property.ExecStart": "x", "run.oci.hooks": "y"}
	in.Image.Config.Volumes = map[string]struct{}{"/../../../etc": {}}
	in.Container.Annotations = map[string]string{"org.systemd.property.X": "1", "keep.example/a": "ctr", "exact": "e"}
	in.Sandbox.Annotations = map[string]string{"keep.example/a": "pod", "keep.example/b": "pod", "exactly": "no"}
	s, _ := mustBuild(t, in)
	if s.Annotations != nil || s.Hooks != nil {
		t.Errorf("annotations %v, hooks %v", s.Annotations, s.Hooks)
	}
	in.Defaults.Annotations = []string{"keep.example/*", "exact"}
	s, _ = mustBuild(t, in)
	wantEqual(t, "annotations", s.Annotations, map[string]string{"keep.example/a": "ctr", "keep.example/b": "pod", "exact": "e"})
}
