package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	nriapi "github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/podfiles"
	"github.com/berth-cri/berth/runtimeservice/selinux"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// fakeLabels counts pods for their level.
type fakeLabels struct {
	mu        sync.Mutex
	n         int
	held      map[string]selinux.Labels
	relabeled []string
	fail      error
}

func (f *fakeLabels) Pod(id string, asked *runtimeapi.SELinuxOption) (selinux.Labels, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if asked.GetType() == "nosuch_t" {
		return selinux.Labels{}, errdefs.ErrInvalidArgument
	}
	f.n++
	f.held[id] = selinux.Labels{Process: fmt.Sprint("process-", f.n), File: fmt.Sprint("file-", f.n)}
	return f.held[id], nil
}

func (f *fakeLabels) Container(id string, pod selinux.Labels, asked *runtimeapi.SELinuxOption) (selinux.Labels, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if asked.GetLevel() == "" {
		return pod, nil
	}
	f.held[id] = selinux.Labels{Process: pod.Process + asked.Level, File: pod.File + asked.Level}
	return f.held[id], nil
}

func (f *fakeLabels) Hold(id string, l selinux.Labels) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[id] = l
}

func (f *fakeLabels) Release(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, id)
}

func (f *fakeLabels) Relabel(_ context.Context, path, label string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.relabeled = append(f.relabeled, path+" "+label)
	return f.fail
}

func (f *fakeLabels) holders() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.held))
}

// labelledNode is a node with SELinux, whose specifications have the labels that the
// input had, and the mounts of the request with resolved sources.
func labelledNode(t *testing.T) (*node, *fakeLabels) {
	n, labels := newNode(t), &fakeLabels{held: map[string]selinux.Labels{}}
	n.labels = labels
	n.build = func(ctx context.Context, in spec.Input) (*specs.Spec, *spec.Resolved, error) {
		out, resolved, err := buildTestSpec(ctx, in)
		out.Process.SelinuxLabel, out.Linux.MountLabel = in.ProcessLabel, in.FileLabel
		for _, m := range in.Container.GetMounts() {
			out.Mounts = append(out.Mounts, specs.Mount{Destination: m.ContainerPath, Source: "/resolved" + m.HostPath})
		}
		return out, resolved, err
	}
	return n, labels
}

func level(c *runtimeapi.ContainerConfig, level string) *runtimeapi.ContainerConfig {
	c.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
		SelinuxOptions: &runtimeapi.SELinuxOption{Level: level}}}
	return c
}

func TestPodInitLabel(t *testing.T) {
	n, _ := labelledNode(t)
	s, _ := n.start()
	for name, want := range map[string]bool{"confined": true, "privileged": false} {
		config := podConfig(name)
		config.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD}
		config.Linux.SecurityContext.Privileged = !want
		if _, err := s.RunPodSandbox(t.Context(), config, ""); err != nil {
			t.Fatal(err)
		}
		if got := strings.HasPrefix(n.monitor.initLabel, "process-"); got != want {
			t.Errorf("the init of a %s pod has the label %q", name, n.monitor.initLabel)
		}
	}
}

func TestLabels(t *testing.T) {
	n, labels := labelledNode(t)
	s, _ := n.start()
	config := podConfig("web")
	pod, err := s.RunPodSandbox(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	if n.mounts.label != "file-1" {
		t.Errorf("the pod's shm has the label %q", n.mounts.label)
	}
	if got := fileLabel(t, podfiles.In(s.sandboxDir(pod)).ResolvConf); got != "file-1" {
		t.Errorf("the pod's resolv.conf has the label %q", got)
	}
	c := containerConfig("c")
	c.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/data", HostPath: "/pods/data", SelinuxRelabel: true},
		{ContainerPath: "/etc/hosts", HostPath: "/etc/hosts"},
	}
	id, err := s.CreateContainer(t.Context(), pod, c, config)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(labels.relabeled, []string{"/resolved/pods/data file-1"}) {
		t.Errorf("labelled are %q", labels.relabeled)
	}
	if n.rootfs.label != "file-1" {
		t.Errorf("the root file system has the label %q", n.rootfs.label)
	}
	own, err := s.CreateContainer(t.Context(), pod, level(containerConfig("own"), "+"), config)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{id: "process-1", own: "process-1+"} {
		if c, _ := s.containers.get(id); c.spec.Process.SelinuxLabel != want {
			t.Errorf("the process has the label %q, want %q", c.spec.Process.SelinuxLabel, want)
		}
	}
	if got := labels.holders(); len(got) != 2 {
		t.Errorf("a level is held by %v", got)
	}
	if err := s.RemovePodSandbox(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got := labels.holders(); len(got) != 0 {
		t.Errorf("a level is held by %v", got)
	}
	n.assertEmpty()
}

// What has failed holds no level, and nothing of it is left.
func TestLabelsAfterAFailure(t *testing.T) {
	n, labels := labelledNode(t)
	s, _ := n.start()
	bad := podConfig("bad")
	bad.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "nosuch_t"}
	if _, err := s.RunPodSandbox(t.Context(), bad, ""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a type that does not exist: %v", err)
	}
	n.assertEmpty()
	config := podConfig("web")
	pod, err := s.RunPodSandbox(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	labels.fail = errors.New("read-only file system")
	c := level(containerConfig("c"), "+")
	c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: "/pods/data", SelinuxRelabel: true}}
	if _, err := s.CreateContainer(t.Context(), pod, c, config); !errors.Is(err, labels.fail) {
		t.Errorf("a volume that cannot be labelled: %v", err)
	}
	if got := labels.holders(); !slices.Equal(got, []string{pod}) {
		t.Errorf("a level is held by %v", got)
	}
}

// A plugin's mount is labelled if the plugin says so, and what is not, is not.
func TestLabelsOfWhatPluginsMount(t *testing.T) {
	n, labels := labelledNode(t)
	s, _ := n.start()
	adjust := &nriapi.ContainerAdjustment{}
	adjust.AddMount(&nriapi.Mount{Destination: "/plain", Source: "/pods/plain", Type: "bind"})
	adjust.AddMount(&nriapi.Mount{Destination: "/ours", Source: "/pods/ours", Type: "bind", Options: []string{"ro", nriapi.SELinuxRelabel}})
	got, err := s.adjuster(t.Context(), "file-1").Adjust(&specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}, adjust)
	if err != nil || !slices.Equal(labels.relabeled, []string{"/pods/ours file-1"}) {
		t.Errorf("labelled are %q: %v", labels.relabeled, err)
	}
	if last := got.Mounts[len(got.Mounts)-1]; !slices.Equal(last.Options, []string{"ro"}) {
		t.Errorf("the mount has the options %q", last.Options)
	}
	labels.fail = errors.New("read-only file system")
	if _, err := s.adjuster(t.Context(), "file-1").Adjust(got, adjust); !errors.Is(err, labels.fail) {
		t.Errorf("a mount that cannot be labelled: %v", err)
	}
	if _, err := s.adjuster(t.Context(), "").Adjust(got, adjust); err != nil {
		t.Errorf("without SELinux: %v", err)
	}
}

func TestLabelsAreHeldAfterARestart(t *testing.T) {
	n, _ := labelledNode(t)
	s, stop := n.start()
	config := podConfig("web")
	pod, err := s.RunPodSandbox(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	stop()
	labels := &fakeLabels{held: map[string]selinux.Labels{}}
	n.labels = labels
	s, _ = n.start()
	if got := labels.held[pod]; got != (selinux.Labels{Process: "process-1", File: "file-1"}) {
		t.Errorf("the pod holds %v", got)
	}
	id, err := s.CreateContainer(t.Context(), pod, containerConfig("c"), config)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := s.containers.get(id); c.spec.Process.SelinuxLabel != "process-1" {
		t.Errorf("a container has the label %q", c.spec.Process.SelinuxLabel)
	}
	if err := s.RemovePodSandbox(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got := labels.holders(); len(got) != 0 {
		t.Errorf("a level is held by %v", got)
	}
}

func fileLabel(t *testing.T, path string) string {
	t.Helper()
	value := make([]byte, 256)
	n, err := unix.Lgetxattr(path, "security.selinux", value)
	if err != nil {
		t.Fatalf("label of %s: %v", path, err)
	}
	return string(value[:n])
}
