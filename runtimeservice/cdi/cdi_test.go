package cdi

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func describe(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

const gpu = `cdiVersion: "0.6.0"
kind: vendor.test/gpu
containerEdits:
  env: ["ALL=yes"]
devices:
- name: one
  containerEdits:
    env: ["WHICH=one"]
    deviceNodes: [{path: /dev/gpu1, hostPath: /dev/null, permissions: rw}]
    mounts: [{hostPath: /usr/lib/gpu, containerPath: /lib/gpu, options: [ro, bind]}]
    hooks: [{hookName: createContainer, path: /usr/bin/hook, args: [hook, one]}]
- name: missing
  containerEdits:
    deviceNodes: [{path: /dev/no-such-device-here}]
`

func specification() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}}}
}

func newInjector(t *testing.T, dirs ...string) *Injector {
	t.Helper()
	i, err := New(dirs, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestInject(t *testing.T) {
	dir := t.TempDir()
	describe(t, dir, "gpu.yaml", gpu)
	s := specification()
	if err := newInjector(t, dir, dir+"/absent").Inject(t.Context(), s, []string{"vendor.test/gpu=one"}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Process.Env, []string{"ALL=yes", "WHICH=one"}) {
		t.Errorf("environment %q", s.Process.Env)
	}
	if len(s.Linux.Devices) != 1 || s.Linux.Devices[0].Path != "/dev/gpu1" || s.Linux.Devices[0].Major != 1 || s.Linux.Devices[0].Minor != 3 {
		t.Errorf("devices %+v", s.Linux.Devices)
	}
	if rules := s.Linux.Resources.Devices; len(rules) != 2 || rules[0].Allow || !rules[1].Allow || rules[1].Access != "rw" {
		t.Errorf("rules %+v", rules)
	}
	if len(s.Mounts) != 1 || s.Mounts[0].Destination != "/lib/gpu" || len(s.Hooks.CreateContainer) != 1 {
		t.Errorf("mounts %+v, hooks %+v", s.Mounts, s.Hooks)
	}
}

func TestInjectRefuses(t *testing.T) {
	dir := t.TempDir()
	describe(t, dir, "gpu.yaml", gpu)
	describe(t, dir, "bad.yaml", "cdiVersion: [")
	i := newInjector(t, dir)
	err := i.Inject(t.Context(), specification(), []string{"vendor.test/gpu=one", "vendor.test/gpu=two", "other.test/x=y"})
	if !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), `"vendor.test/gpu=two", "other.test/x=y"`) || !strings.Contains(err.Error(), "bad.yaml") {
		t.Errorf("devices that nothing describes: %v", err)
	}
	err = i.Inject(t.Context(), specification(), []string{"vendor.test/gpu=missing"})
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "/dev/no-such-device-here") {
		t.Errorf("a device node that is missing: %v", err)
	}
}

// What is described, changed and removed while the daemon runs is seen.
func TestDescriptionsThatChange(t *testing.T) {
	low, high := t.TempDir(), filepath.Join(t.TempDir(), "later")
	i := newInjector(t, low, high)
	which := func() string {
		s := specification()
		if err := i.Inject(t.Context(), s, []string{"v.test/c=d"}); err != nil {
			if !errors.Is(err, errdefs.ErrNotFound) {
				t.Error(err)
			}
			return "none"
		}
		return s.Process.Env[0]
	}
	entry := func(value string) string {
		return `{"cdiVersion":"0.6.0","kind":"v.test/c","devices":[{"name":"d","containerEdits":{"env":["V=` + value + `"]}}]}`
	}
	if got := which(); got != "none" {
		t.Errorf("without a file: %s", got)
	}
	for _, step := range []struct{ dir, value string }{{low, "1"}, {low, "2"}, {high, "3"}} {
		describe(t, step.dir, "c.json", entry(step.value))
		if got := which(); got != "V="+step.value {
			t.Errorf("%s in %s gives %s", step.value, step.dir, got)
		}
	}
	if err := os.RemoveAll(high); err != nil {
		t.Fatal(err)
	}
	if got := which(); got != "V=2" {
		t.Errorf("after the removal: %s", got)
	}
}

func TestDevices(t *testing.T) {
	c := &runtimeapi.ContainerConfig{
		CDIDevices:  []*runtimeapi.CDIDevice{{Name: "a.test/b=c"}},
		Annotations: map[string]string{"cdi.k8s.io/z": "a.test/b=d,a.test/b=c", "cdi.k8s.io/a": "a.test/b=e", "other": "x"},
	}
	got, err := Devices(c)
	if err != nil || !slices.Equal(got, []string{"a.test/b=c", "a.test/b=e", "a.test/b=d"}) {
		t.Errorf("%q, %v", got, err)
	}
	for field, bad := range map[string]*runtimeapi.ContainerConfig{
		"config.CDI_devices[1].name":       {CDIDevices: []*runtimeapi.CDIDevice{{Name: "a.test/b=c"}, {Name: "gpu0"}}},
		"config.CDI_devices[0].name":       {CDIDevices: []*runtimeapi.CDIDevice{{Name: "a.test/b=c,a.test/b=d"}}},
		"config.annotations[cdi.k8s.io/x]": {Annotations: map[string]string{"cdi.k8s.io/x": "a.test/b=c,"}},
	} {
		if got, err := Devices(bad); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: %q, %v", field, got, err)
		}
	}
}
