package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type res = runtimeapi.LinuxContainerResources

func TestLinuxResources(t *testing.T) {
	noSwap, v1 := testHost(), testHost()
	noSwap.SwapLimit = false
	v1.CgroupV2, v1.HugepageSizes = false, nil
	tests := []struct {
		name string
		in   *res
		host *Host
		want string
	}{
		{"nil", nil, testHost(), `{}`},
		{"zero is unset", &res{}, testHost(), `{}`},
		{"CPU", &res{CpuShares: 102, CpuQuota: 50000, CpuPeriod: 100000}, testHost(), `{"cpu":{"shares":102,"quota":50000,"period":100000}}`},
		{"no quota", &res{CpuQuota: -1, CpuPeriod: 100000}, testHost(), `{"cpu":{"quota":-1,"period":100000}}`},
		{"cpuset", &res{CpusetCpus: "0-1,3", CpusetMems: "0"}, testHost(), `{"cpu":{"cpus":"0-1,3","mems":"0"}}`},
		{"memory without swap", &res{MemoryLimitInBytes: 1 << 20}, testHost(), `{"memory":{"limit":1048576,"swap":1048576}}`},
		{"memory and swap", &res{MemoryLimitInBytes: 1 << 20, MemorySwapLimitInBytes: 1 << 21}, testHost(), `{"memory":{"limit":1048576,"swap":2097152}}`},
		{"memory unlimited again", &res{MemoryLimitInBytes: -1}, testHost(), `{"memory":{"limit":-1,"swap":-1}}`},
		{"swap that the kernel cannot limit", &res{MemoryLimitInBytes: 1 << 20, MemorySwapLimitInBytes: 1 << 21}, noSwap, `{"memory":{"limit":1048576}}`},
		{"only swap that the kernel cannot limit", &res{MemorySwapLimitInBytes: 1 << 21}, noSwap, `{}`},
		{"huge pages", &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}, {PageSize: "1GB"}}}, testHost(),
			`{"hugepageLimits":[{"pageSize":"2MB","limit":4194304},{"pageSize":"1GB","limit":0}]}`},
		{"huge pages of no use", &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}}}, v1, `{}`},
		{"unified", &res{Unified: map[string]string{"memory.oom.group": "1", "io.max": "8:0 rbps=1\n8:16 rbps=2"}}, testHost(),
			`{"unified":{"io.max":"8:0 rbps=1\n8:16 rbps=2","memory.oom.group":"1"}}`},
		{"OOM score is no cgroup's", &res{OomScoreAdj: -997}, testHost(), `{}`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := LinuxResources("r", tc.in, tc.host)
			must(t, err)
			text, err := json.Marshal(got)
			must(t, err)
			wantEqual(t, "resources", string(text), tc.want)
		})
	}
}

func TestLinuxResourcesRefused(t *testing.T) {
	v1 := testHost()
	v1.CgroupV2 = false
	huge := func(size string, limit uint64) *res {
		return &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: size, Limit: limit}}}
	}
	tests := []struct {
		field string
		in    *res
		kind  error
	}{
		{"r.cpu_shares", &res{CpuShares: -1}, errdefs.ErrInvalidArgument},
		{"r.cpu_quota", &res{CpuQuota: -2}, errdefs.ErrInvalidArgument},
		{"r.cpu_period", &res{CpuPeriod: -1}, errdefs.ErrInvalidArgument},
		{"r.cpu_period", &res{CpuPeriod: 999}, errdefs.ErrInvalidArgument},
		{"r.cpuset_cpus", &res{CpusetCpus: "0,"}, errdefs.ErrInvalidArgument},
		{"r.cpuset_cpus", &res{CpusetCpus: "3-1"}, errdefs.ErrInvalidArgument},
		{"r.cpuset_cpus", &res{CpusetCpus: "0\n1"}, errdefs.ErrInvalidArgument},
		{"r.cpuset_mems", &res{CpusetMems: "a"}, errdefs.ErrInvalidArgument},
		{"r.memory_limit_in_bytes", &res{MemoryLimitInBytes: -2}, errdefs.ErrInvalidArgument},
		{"r.memory_swap_limit_in_bytes", &res{MemorySwapLimitInBytes: -2}, errdefs.ErrInvalidArgument},
		{"r.memory_swap_limit_in_bytes", &res{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 5}, errdefs.ErrInvalidArgument},
		{"r.hugepage_limits[0].page_size", huge("", 0), errdefs.ErrInvalidArgument},
		{"r.hugepage_limits[0].page_size", huge("MB", 0), errdefs.ErrInvalidArgument},
		{"r.hugepage_limits[0].page_size", huge("2M", 0), errdefs.ErrInvalidArgument},
		{"r.hugepage_limits[0].page_size", huge("../2MB", 0), errdefs.ErrInvalidArgument},
		{"r.hugepage_limits[0].page_size", huge("64KB", 1), errdefs.ErrFailedPrecondition},
		{"r.oom_score_adj", &res{OomScoreAdj: 1001}, errdefs.ErrInvalidArgument},
		{"r.oom_score_adj", &res{OomScoreAdj: -1001}, errdefs.ErrInvalidArgument},
		{"r.unified", &res{Unified: map[string]string{"../memory.max": "1"}}, errdefs.ErrInvalidArgument},
		{"r.unified", &res{Unified: map[string]string{"memory": "1"}}, errdefs.ErrInvalidArgument},
		{"r.unified", &res{Unified: map[string]string{"memory.max": "1\x00"}}, errdefs.ErrInvalidArgument},
	}
	for _, tc := range tests {
		_, err := LinuxResources("r", tc.in, testHost())
		wantError(t, err, tc.kind, tc.field+": ")
	}
	_, err := LinuxResources("r", &res{Unified: map[string]string{"memory.max": "1"}}, v1)
	wantError(t, err, errdefs.ErrFailedPrecondition, "r.unified: ")
}

func TestClamping(t *testing.T) {
	in := testInput(t)
	in.Container.Linux.Resources.OomScoreAdj = -997
	in.Defaults.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 20, Hard: 1 << 20}, {Type: "RLIMIT_CORE", Soft: 9, Hard: 7}}
	in.Defaults.PidsLimit = 100
	s, r := mustBuild(t, in)
	wantEqual(t, "OOM score", *s.Process.OOMScoreAdj, 5)
	wantEqual(t, "limits", s.Process.Rlimits, []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 4096, Hard: 4096}, {Type: "RLIMIT_CORE", Soft: 7, Hard: 7}})
	wantEqual(t, "processes", *s.Linux.Resources.Pids.Limit, int64(100))
	wantEqual(t, "number of notes", len(r.Notes), 2)

	in.Host.CanRaiseLimits = true
	s, r = mustBuild(t, in)
	wantEqual(t, "OOM score with CAP_SYS_RESOURCE", *s.Process.OOMScoreAdj, -997)
	wantEqual(t, "hard limit with CAP_SYS_RESOURCE", s.Process.Rlimits[0].Hard, uint64(1<<20))
	wantEqual(t, "notes with CAP_SYS_RESOURCE", r.Notes, []string(nil))

	in.Defaults.Rlimits[0].Type = "RLIMIT_NONE"
	_, _, err := Build(t.Context(), in)
	wantError(t, err, errdefs.ErrInvalidArgument, "default rlimits: ")
}

func TestDevices(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("/dev/null", filepath.Join(dir, "link")))
	in := testInput(t)
	in.Container.Devices = []*runtimeapi.Device{
		{HostPath: filepath.Join(dir, "link"), ContainerPath: "/dev/mine", Permissions: "rw"},
		{HostPath: "/dev/zero", Permissions: "m"},
	}
	s, _ := mustBuild(t, in)
	wantEqual(t, "number of devices", len(s.Linux.Devices), 2)
	d := s.Linux.Devices[0]
	if d.Path != "/dev/mine" || d.Type != "c" || d.Major != 1 || d.Minor != 3 || d.FileMode == nil || d.UID == nil || *d.UID != 0 {
		t.Errorf("device is %+v", d)
	}
	wantEqual(t, "path without one in the container", s.Linux.Devices[1].Path, "/dev/zero")
	rules, err := json.Marshal(s.Linux.Resources.Devices)
	must(t, err)
	wantEqual(t, "rules", string(rules), `[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"},`+
		`{"allow":true,"type":"c","major":1,"minor":5,"access":"m"}]`)
}

// TestDeviceDirectory needs the right to make device nodes.
func TestDeviceDirectory(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	writeFile(t, filepath.Join(dir, "file"), "")
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, unix.Mknod(filepath.Join(dir, "a"), unix.S_IFCHR|0o640, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(filepath.Join(dir, "sub/b"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 250))))
	in := testInput(t)
	in.Container.Devices = []*runtimeapi.Device{{HostPath: dir, ContainerPath: "/dev/set", Permissions: "r"}}
	s, _ := mustBuild(t, in)
	var got []string
	for _, d := range s.Linux.Devices {
		got = append(got, d.Type+d.Path)
	}
	wantEqual(t, "devices", got, []string{"c/dev/set/a", "b/dev/set/sub/b"})
	wantEqual(t, "number of rules", len(s.Linux.Resources.Devices), 3)
}

func TestDevicesRefused(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), "")
	must(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	tests := []struct {
		dev   *runtimeapi.Device
		field string
		kind  error
	}{
		{&runtimeapi.Device{Permissions: "r"}, "host_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Device{HostPath: "dev/null", Permissions: "r"}, "host_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Device{HostPath: dir + "/missing", Permissions: "r"}, "host_path", errdefs.ErrNotFound},
		{&runtimeapi.Device{HostPath: dir + "/file", Permissions: "r"}, "host_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Device{HostPath: dir + "/empty", Permissions: "r"}, "host_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Device{HostPath: "/dev/null"}, "permissions", errdefs.ErrInvalidArgument},
		{&runtimeapi.Device{HostPath: "/dev/null", Permissions: "rwx"}, "permissions", errdefs.ErrInvalidArgument},
		{&runtimeapi.Device{HostPath: "/dev/null", ContainerPath: "x", Permissions: "r"}, "container_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Device{HostPath: "/dev/null", ContainerPath: "/", Permissions: "r"}, "container_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Device{HostPath: "/dev/null", ContainerPath: "/dev/../proc/x", Permissions: "r"}, "container_path", errdefs.ErrInvalidArgument},
	}
	for _, tc := range tests {
		in := testInput(t)
		in.Container.Devices = []*runtimeapi.Device{tc.dev}
		_, _, err := Build(t.Context(), in)
		wantError(t, err, tc.kind, "config.devices[0]."+tc.field+": ")
	}
}

func TestCgroupsPath(t *testing.T) {
	good := []struct {
		systemd                    bool
		parent, fallback, id, want string
	}{
		{false, "/kubepods/burstable/pod1", "", "c1", "/kubepods/burstable/pod1/c1"},
		{false, "kubepods/", "/berth", "c1", "/kubepods/c1"},
		{false, "", "/berth", "c1", "/berth/c1"},
		{false, "/kubepods.slice", "", "c1", "/kubepods.slice/c1"},
		{true, "/kubepods.slice/kubepods-pod1.slice", "", "c1", "kubepods-pod1.slice:berth:c1"},
		{true, "kubepods-pod1.slice", "", "c1", "kubepods-pod1.slice:berth:c1"},
		{true, "", "system.slice", "c1", "system.slice:berth:c1"},
	}
	for _, tc := range good {
		got, err := CgroupsPath(tc.systemd, tc.parent, tc.fallback, tc.id)
		if err != nil || got != tc.want {
			t.Errorf("CgroupsPath(%v, %q, %q, %q) is %q, %v, want %q", tc.systemd, tc.parent, tc.fallback, tc.id, got, err, tc.want)
		}
	}
	bad := []struct {
		systemd    bool
		parent, id string
	}{
		{false, "", "c1"}, {false, "/a/../../b", "c1"}, {false, "/a\n", "c1"}, {false, "/a", "x/y"}, {false, "/a", ""}, {false, "/a", ".."},
		{true, "/kubepods/pod1", "c1"}, {true, "a:b.slice", "c1"}, {true, "/", "c1"}, {true, "a.slice", "a:b"},
	}
	for _, tc := range bad {
		got, err := CgroupsPath(tc.systemd, tc.parent, "", tc.id)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("CgroupsPath(%v, %q, %q) is %q, %v", tc.systemd, tc.parent, tc.id, got, err)
		}
	}
}

func TestDetectHost(t *testing.T) {
	h, err := DetectHost()
	must(t, err)
	if len(h.HardRlimits) != len(rlimitNumbers) || h.HardRlimits["RLIMIT_NOFILE"] == 0 {
		t.Errorf("limits are %v", h.HardRlimits)
	}
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	if h.CanRaiseLimits && !slices.Contains(h.Capabilities, "CAP_SYS_RESOURCE") {
		t.Error("limits may be raised without CAP_SYS_RESOURCE")
	}
	if strings.Contains(string(status), "CapBnd:\t0000000000000000") != (len(h.Capabilities) == 0) {
		t.Errorf("capabilities are %v", h.Capabilities)
	}
	in := testInput(t)
	in.Host = h
	mustBuild(t, in)
}

func TestDetectCgroupFiles(t *testing.T) {
	root := t.TempDir()
	mkdir := func(p string) { must(t, os.MkdirAll(filepath.Join(root, p), 0o755)) }
	mkdir("hp/hugepages-2048kB")
	mkdir("hp/hugepages-1048576kB")
	mkdir("hp/hugepages-64kB")
	mkdir("v1/hugetlb")
	mkdir("v1/memory")
	mkdir("v2/own.slice")
	writeFile(t, filepath.Join(root, "v2/cgroup.controllers"), "cpu memory hugetlb pids\n")
	writeFile(t, filepath.Join(root, "self"), "0::/own.slice\n")
	at := func(p string) string { return filepath.Join(root, p) }

	for _, v := range []struct {
		dir string
		v2  bool
	}{{"v1", false}, {"v2", true}} {
		sizes := hugepageSizes(at(v.dir), at("hp"), v.v2)
		slices.Sort(sizes)
		wantEqual(t, "page sizes on "+v.dir, sizes, []string{"1GB", "2MB", "64KB"})
		if canLimitSwap(at(v.dir), at("self"), v.v2) {
			t.Errorf("%s without the file can limit swap", v.dir)
		}
	}
	writeFile(t, at("v1/memory/memory.memsw.limit_in_bytes"), "")
	writeFile(t, at("v2/own.slice/memory.swap.max"), "")
	if !canLimitSwap(at("v1"), at("self"), false) || !canLimitSwap(at("v2"), at("self"), true) || !canLimitSwap(at("v2"), at("none"), true) {
		t.Error("swap limit is not found")
	}
	if got := hugepageSizes(at("v2/own.slice"), at("hp"), true); got != nil {
		t.Errorf("page sizes without the controller are %v", got)
	}
}
