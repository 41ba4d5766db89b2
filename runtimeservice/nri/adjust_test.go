package nri

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

func testSpec() *specs.Spec {
	return &specs.Spec{
		Annotations: map[string]string{"keep": "1", "drop": "2"},
		Process: &specs.Process{
			Args: []string{"sh"}, Env: []string{"A=1", "B=2", "C=3"}, Cwd: "/",
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 1}},
		},
		Mounts: []specs.Mount{{Destination: "/proc"}, {Destination: "/dev"}, {Destination: "/dev/shm"}, {Destination: "/data/below"}},
		Hooks:  &specs.Hooks{Poststop: []specs.Hook{{Path: "/first"}}},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.IPCNamespace, Path: "/pod"}},
			Devices:    []specs.LinuxDevice{{Path: "/dev/one", Type: "c", Major: 1, Minor: 1}},
			Sysctl:     map[string]string{"a.b": "1", "c.d": "2"},
			Resources: &specs.LinuxResources{
				CPU:     &specs.LinuxCPU{Shares: ptr(uint64(100)), Cpus: "0-3"},
				Memory:  &specs.LinuxMemory{Limit: ptr(int64(10)), Swap: ptr(int64(10))},
				Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(1)), Access: "rw"}},
			},
			IntelRdt: &specs.LinuxIntelRdt{ClosID: "old"},
		},
	}
}

// adjusted adjusts a specification and sees to it that the one given does not change.
func adjusted(t *testing.T, a Adjuster, change func(*api.ContainerAdjustment)) (*specs.Spec, error) {
	t.Helper()
	before, adjust := testSpec(), &api.ContainerAdjustment{}
	change(adjust)
	after, err := a.Adjust(before, adjust)
	if !reflect.DeepEqual(before, testSpec()) {
		text, _ := json.Marshal(before)
		t.Errorf("the specification that was given is now %s", text)
	}
	return after, err
}

func TestAdjust(t *testing.T) {
	wants := func(what string, got, want any) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
		}
	}
	for name, test := range map[string]struct {
		change func(*api.ContainerAdjustment)
		check  func(*specs.Spec) func(*testing.T)
	}{
		"environment": {
			func(a *api.ContainerAdjustment) {
				a.AddEnv("B", "two")
				a.RemoveEnv("A")
				a.AddEnv("D", "")
				a.RemoveEnv("X")
			},
			func(s *specs.Spec) func(*testing.T) {
				return wants("env", s.Process.Env, []string{"B=two", "C=3", "D="})
			},
		},
		"an annotation that one plugin removes and another sets": {
			func(a *api.ContainerAdjustment) {
				a.Annotations = map[string]string{"-keep": "", "keep": "new", "-drop": "", "more": "3"}
			},
			func(s *specs.Spec) func(*testing.T) {
				return wants("annotations", s.Annotations, map[string]string{"keep": "new", "more": "3"})
			},
		},
		"hooks": {
			func(a *api.ContainerAdjustment) {
				a.AddHooks(&api.Hooks{Poststop: []*api.Hook{{Path: "/second", Args: []string{"x"}}}, StartContainer: []*api.Hook{{Path: "/in"}}})
			},
			func(s *specs.Spec) func(*testing.T) {
				return wants("hooks", s.Hooks, &specs.Hooks{
					Poststop:       []specs.Hook{{Path: "/first"}, {Path: "/second", Args: []string{"x"}}},
					StartContainer: []specs.Hook{{Path: "/in"}},
				})
			},
		},
		"mounts by depth": {
			func(a *api.ContainerAdjustment) {
				a.AddMount(&api.Mount{Destination: "/data", Source: "/src", Type: "bind", Options: []string{"rslave", "relabel"}})
				a.RemoveMount("/dev/shm/")
			},
			func(s *specs.Spec) func(*testing.T) {
				var where []string
				for _, m := range s.Mounts {
					where = append(where, m.Destination)
				}
				return wants("mounts", []any{where, s.Mounts[2].Options, s.Linux.RootfsPropagation},
					[]any{[]string{"/proc", "/dev", "/data", "/data/below"}, []string{"rslave"}, "rslave"})
			},
		},
		"a device and its rule": {
			func(a *api.ContainerAdjustment) {
				a.RemoveDevice("/dev/one")
				a.AddDevice(&api.LinuxDevice{Path: "/dev/two", Type: "c", Major: 2, Minor: 2})
			},
			func(s *specs.Spec) func(*testing.T) {
				return wants("devices", []any{s.Linux.Devices, s.Linux.Resources.Devices}, []any{
					[]specs.LinuxDevice{{Path: "/dev/two", Type: "c", Major: 2, Minor: 2}},
					[]specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: ptr(int64(2)), Minor: ptr(int64(2)), Access: "rw"}},
				})
			},
		},
		"namespaces": {
			func(a *api.ContainerAdjustment) {
				a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "ipc"})
				a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "time"})
				a.RemoveNamespace(&api.LinuxNamespace{Type: "mount"})
			},
			func(s *specs.Spec) func(*testing.T) {
				return wants("namespaces", s.Linux.Namespaces, []specs.LinuxNamespace{{Type: specs.IPCNamespace}, {Type: specs.TimeNamespace}})
			},
		},
		"sysctls and network devices": {
			func(a *api.ContainerAdjustment) {
				a.SetLinuxSysctl("a.b", "3")
				a.SetLinuxSysctl("-c.d", "")
				a.AddLinuxNetDevice("eth7", &api.LinuxNetDevice{Name: "net1"})
			},
			func(s *specs.Spec) func(*testing.T) {
				return wants("both", []any{s.Linux.Sysctl, s.Linux.NetDevices},
					[]any{map[string]string{"a.b": "3"}, map[string]specs.LinuxNetDevice{"eth7": {Name: "net1"}}})
			},
		},
		"limits of the process": {
			func(a *api.ContainerAdjustment) { a.AddRlimit("RLIMIT_NOFILE", 9, 8); a.AddRlimit("RLIMIT_CORE", 7, 7) },
			func(s *specs.Spec) func(*testing.T) {
				return wants("limits", s.Process.Rlimits, []specs.POSIXRlimit{
					{Type: "RLIMIT_NOFILE", Hard: 9, Soft: 8}, {Type: "RLIMIT_CORE", Hard: 7, Soft: 7},
				})
			},
		},
		"resources": {
			func(a *api.ContainerAdjustment) {
				a.SetLinuxCPUShares(5)
				a.SetLinuxMemoryLimit(20)
				a.SetLinuxMemoryReservation(15)
				a.SetLinuxMemorySwappiness(3)
				a.SetLinuxPidLimits(4)
				a.AddLinuxUnified("memory.high", "17")
				a.AddLinuxHugepageLimit("2MB", 1<<21)
			},
			func(s *specs.Spec) func(*testing.T) {
				r := *s.Linux.Resources
				r.Devices = nil
				return wants("resources", r, specs.LinuxResources{
					CPU:            &specs.LinuxCPU{Shares: ptr(uint64(5)), Cpus: "0-3"},
					Memory:         &specs.LinuxMemory{Limit: ptr(int64(20)), Swap: ptr(int64(20)), Reservation: ptr(int64(15)), Swappiness: ptr(uint64(3))},
					Pids:           &specs.LinuxPids{Limit: ptr(int64(4))},
					Unified:        map[string]string{"memory.high": "17"},
					HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1 << 21}},
				})
			},
		},
		"RDT": {
			func(a *api.ContainerAdjustment) {
				a.SetLinuxRDTClosID("new")
				a.SetLinuxRDTSchemata([]string{"L3:0=f"})
			},
			func(s *specs.Spec) func(*testing.T) {
				return wants("RDT", s.Linux.IntelRdt, &specs.LinuxIntelRdt{ClosID: "new", Schemata: []string{"L3:0=f"}})
			},
		},
		"seccomp": {
			func(a *api.ContainerAdjustment) {
				a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{
					DefaultAction: "SCMP_ACT_ERRNO", DefaultErrno: &api.OptionalUInt32{Value: 38},
					Architectures: []string{"SCMP_ARCH_X86_64"}, Flags: []string{"SECCOMP_FILTER_FLAG_LOG"},
				})
			},
			func(s *specs.Spec) func(*testing.T) {
				s.Linux.Seccomp.Syscalls = nil
				return wants("seccomp", s.Linux.Seccomp, &specs.LinuxSeccomp{
					DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(uint(38)),
					Architectures: []specs.Arch{specs.ArchX86_64}, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
				})
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			after, err := adjusted(t, Adjuster{}, test.change)
			if err != nil {
				t.Fatal(err)
			}
			test.check(after)(t)
		})
	}
}

func TestAdjustAsksTheRuntime(t *testing.T) {
	no := errors.New("no")
	a := Adjuster{
		InjectCDI: func(spec *specs.Spec, names []string) error {
			if !slices.Equal(names, []string{"vendor.com/gpu=0"}) {
				return no
			}
			spec.Process.Env = append(spec.Process.Env, "GPU=0")
			return nil
		},
		BlockIO: func(class string) (*specs.LinuxBlockIO, error) {
			return &specs.LinuxBlockIO{Weight: ptr(uint16(9))}, nil
		},
		RDT:                func(class string) (*specs.LinuxIntelRdt, error) { return &specs.LinuxIntelRdt{ClosID: class}, nil },
		RequirePropagation: func(string, bool) error { return no },
	}
	after, err := adjusted(t, a, func(a *api.ContainerAdjustment) {
		a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/gpu=0"})
		a.SetLinuxBlockIOClass("gold")
		a.SetLinuxRDTClass("silver")
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(after.Process.Env, "GPU=0") || *after.Linux.Resources.BlockIO.Weight != 9 || after.Linux.IntelRdt.ClosID != "silver" {
		t.Errorf("the specification is %+v", after)
	}
	_, err = adjusted(t, a, func(a *api.ContainerAdjustment) {
		a.AddMount(&api.Mount{Destination: "/x", Source: "/y", Options: []string{"rshared"}})
	})
	if !errors.Is(err, no) {
		t.Errorf("a mount that cannot propagate: %v", err)
	}
	_, err = adjusted(t, Adjuster{}, func(a *api.ContainerAdjustment) { a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/gpu=0"}) })
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "vendor.com/gpu=0") {
		t.Errorf("a CDI device without CDI: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	spec := testSpec()
	c := &api.Container{Annotations: map[string]string{"keep": "request's", "own": "x"}}
	Describe(c, spec)
	want := map[string]string{"keep": "1", "drop": "2", "own": "x"}
	if !reflect.DeepEqual(c.Annotations, want) {
		t.Errorf("annotations %v, want %v", c.Annotations, want)
	}
	if len(c.Mounts) != 4 || c.Linux.Rdt.ClosId.GetValue() != "old" || c.Rlimits[0].Hard != 1 || c.Hooks.Poststop[0].Path != "/first" {
		t.Errorf("described as %v", c)
	}
	c.Env[0], c.Linux.Sysctl["a.b"] = "changed", "changed"
	if !reflect.DeepEqual(spec, testSpec()) {
		t.Error("a change of the description shows in the specification")
	}
}
