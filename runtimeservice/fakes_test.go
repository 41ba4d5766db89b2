package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cni"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/podfiles"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// faults makes named steps of the fakes fail, hang or be watched.
type faults struct {
	mu    sync.Mutex
	hooks map[string]func(ctx context.Context, id string) error
}

// on makes do run at the step, and fail it with its error.
func (f *faults) on(step string, do func(ctx context.Context, id string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hooks == nil {
		f.hooks = make(map[string]func(context.Context, string) error)
	}
	f.hooks[step] = do
}

func (f *faults) off(step string) { f.on(step, nil) }

func (f *faults) at(ctx context.Context, step, id string) error {
	f.mu.Lock()
	do := f.hooks[step]
	f.mu.Unlock()
	if do == nil {
		return nil
	}
	return do(ctx, id)
}

// node is what outlives the daemon: its fakes keep their state over a restart of
// the Service, and lose what a reboot takes.
type node struct {
	faults
	t      testing.TB
	root   string
	state  string
	bootID string
	log    *slog.Logger

	monitor    *fakeMonitor
	network    *fakeNetwork
	rootfs     *fakeRootfs
	namespaces *fakeNamespaces
	mounts     *fakeMounts
	plugins    Plugins
	labels     Labels
	build      func(context.Context, spec.Input) (*specs.Spec, *spec.Resolved, error)
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{t: t, root: t.TempDir(), state: t.TempDir(), bootID: "boot-1", log: slog.New(slog.DiscardHandler)}
	n.monitor = &fakeMonitor{faults: &n.faults, running: map[string]*fakeProcess{}}
	n.network = &fakeNetwork{faults: &n.faults, attached: map[string]cni.Pod{}, status: cni.Status{Ready: true}}
	n.rootfs = &fakeRootfs{faults: &n.faults, mounted: map[string]string{}, kept: map[string]bool{}}
	n.namespaces = &fakeNamespaces{faults: &n.faults, pins: map[string]namespaces.Pins{}}
	n.mounts = &fakeMounts{faults: &n.faults, mounted: map[string]bool{}}
	n.build = buildTestSpec
	return n
}

// reboot ends everything that lives in the kernel.
func (n *node) reboot() {
	n.bootID += "+"
	n.monitor.lose()
	n.network.reboot()
	n.rootfs.reboot()
	n.namespaces.reboot()
	n.mounts.reboot()
	for _, dir := range []string{"sandboxes", "containers"} {
		if err := os.RemoveAll(filepath.Join(n.state, dir)); err != nil {
			n.t.Fatal(err)
		}
	}
}

// start makes a Service of the node and starts it. It runs until the test ends
// or stop is called, which stands for a kill: nothing is waited for but what
// would go on using the test's directories.
func (n *node) start() (s *Service, stop func()) {
	n.t.Helper()
	s = n.open()
	if err := s.Start(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			n.t.Errorf("Run: %v", err)
		}
		<-s.background.ended()
	})
	n.t.Cleanup(stop)
	return s, stop
}

func (n *node) open() *Service {
	n.t.Helper()
	s, err := New(Options{
		Root: n.root, State: n.state,
		Images: fakeImages{&n.faults}, RootFilesystems: n.rootfs, Volumes: n.rootfs, WritableLayers: n.rootfs, Network: n.network, Plugins: n.plugins, Labels: n.labels, Processes: n.monitor,
		Host: &spec.Host{}, Namespaces: n.namespaces, Mounter: n.mounts, BootID: n.bootID,
		BuildSpec:  func(ctx context.Context, in spec.Input) (*specs.Spec, *spec.Resolved, error) { return n.build(ctx, in) },
		CgroupRoot: n.root, Logger: n.log,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.monitor.setOnExit(s.HandleExit)
	return s
}

// startToBeKilled is start for a daemon whose operations will never end.
func (n *node) startToBeKilled() *Service {
	n.t.Helper()
	s := n.open()
	if err := s.Start(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	return s
}

// assertEmpty fails the test for whatever is left on the node.
func (n *node) assertEmpty() {
	n.t.Helper()
	for _, dir := range []string{n.root + "/sandboxes", n.root + "/containers", n.root + "/specs", n.root + "/checkpoints", n.state + "/sandboxes", n.state + "/containers"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, entry := range entries {
			n.t.Errorf("left: %s", filepath.Join(dir, entry.Name()))
		}
	}
	for what, left := range map[string]int{
		"processes": n.monitor.count(), "attachments": n.network.count(), "root file systems": n.rootfs.count(),
		"namespaces": n.namespaces.count(), "mounts": n.mounts.count(),
	} {
		if left != 0 {
			n.t.Errorf("left: %d %s", left, what)
		}
	}
}

// fakeProcess is a container or a pod's init.
type fakeProcess struct {
	monitor.Container
	signals  []syscall.Signal
	stubborn bool // ignores all but SIGKILL
}

type fakeMonitor struct {
	*faults
	mu      sync.Mutex
	onExit  func(monitor.Exit)
	running map[string]*fakeProcess
	pid     int
	exec    func(monitor.ExecRequest) (Execution, *os.File, error)
	attach  func(monitor.AttachRequest) (<-chan struct{}, error)
	updates []*specs.LinuxResources

	// checkpoints are the calls about checkpoints, restored the containers that went on from
	// one.
	checkpoints, restored []string
	// initLabel is that of the last init of a pod.
	initLabel string
}

func (m *fakeMonitor) setOnExit(fn func(monitor.Exit)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onExit = fn
}

func (m *fakeMonitor) lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.running)
}

func (m *fakeMonitor) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.running)
}

func (m *fakeMonitor) process(id string) *fakeProcess {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running[id]
}

func (m *fakeMonitor) Connect(ctx context.Context) error { return m.at(ctx, "connect", "") }

func (m *fakeMonitor) List(context.Context) ([]monitor.Container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []monitor.Container
	for _, p := range m.running {
		all = append(all, p.Container)
	}
	return all, nil
}

func (m *fakeMonitor) Info(ctx context.Context) (monitor.Info, error) {
	return monitor.Info{Pid: 1}, m.at(ctx, "info", "")
}

func (m *fakeMonitor) run(id string) monitor.Started {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pid++
	started := monitor.Started{Pid: m.pid, StartedAt: time.Now()}
	m.running[id] = &fakeProcess{Container: monitor.Container{ID: id, Pid: started.Pid, StartedAt: started.StartedAt}}
	return started
}

func (m *fakeMonitor) StartPodInit(ctx context.Context, req monitor.PodInitRequest) (monitor.Started, error) {
	if err := m.at(ctx, "pod init", req.ID); err != nil {
		return monitor.Started{}, err
	}
	m.initLabel = req.Label
	return m.run(req.ID), nil
}

func (m *fakeMonitor) Start(ctx context.Context, req monitor.StartRequest) (monitor.Started, error) {
	if err := m.at(ctx, "start", req.ID); err != nil {
		return monitor.Started{}, err
	}
	started := m.run(req.ID)
	if req.Restore != nil {
		m.restored = append(m.restored, req.ID)
	}
	for _, client := range req.Attach {
		ended, err := m.attach(client)
		if err != nil {
			return monitor.Started{}, err
		}
		started.Ended = append(started.Ended, ended)
	}
	return started, m.at(ctx, "started", req.ID)
}

// exit ends a process as the kernel would.
func (m *fakeMonitor) exit(id string, exit monitor.Exit) {
	m.mu.Lock()
	p := m.running[id]
	if p == nil || p.Exit != nil {
		m.mu.Unlock()
		return
	}
	exit.ID = id
	if exit.ExitedAt.IsZero() {
		exit.ExitedAt = time.Now()
	}
	p.Exit = &exit
	tell := m.onExit
	m.mu.Unlock()
	if tell != nil {
		tell(exit)
	}
}

func (m *fakeMonitor) Signal(ctx context.Context, id string, signal syscall.Signal, all bool) error {
	if err := m.at(ctx, "signal", id); err != nil {
		return err
	}
	m.mu.Lock()
	p := m.running[id]
	if p == nil || p.Exit != nil {
		m.mu.Unlock()
		return fmt.Errorf("no container %s: %w", id, errdefs.ErrNotFound)
	}
	p.signals = append(p.signals, signal)
	dies := signal == syscall.SIGKILL || !p.stubborn
	m.mu.Unlock()
	if dies {
		m.exit(id, monitor.Exit{Code: 128 + int(signal)})
	}
	return nil
}

func (m *fakeMonitor) Freeze(ctx context.Context, ids []string, _ time.Duration) error {
	return m.note(ctx, "freeze", ids...)
}

func (m *fakeMonitor) FreezeToDump(ctx context.Context, ids []string, longest time.Duration) error {
	return m.Freeze(ctx, ids, longest)
}

func (m *fakeMonitor) Dump(ctx context.Context, id, images string, _ monitor.CRIUOptions) error {
	if err := m.note(ctx, "dump", id); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(images, "inventory.img"), []byte("image"), 0o644)
}

func (m *fakeMonitor) Thaw(ctx context.Context, ids []string) error {
	return m.note(ctx, "thaw", ids...)
}

func (m *fakeMonitor) note(ctx context.Context, step string, ids ...string) error {
	m.mu.Lock()
	m.checkpoints = append(m.checkpoints, step+" "+strings.Join(ids, " "))
	m.mu.Unlock()
	return m.at(ctx, step, ids[0])
}

func (m *fakeMonitor) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	m.mu.Lock()
	m.updates = append(m.updates, r)
	m.mu.Unlock()
	return m.at(ctx, "update", id)
}

func (m *fakeMonitor) Delete(ctx context.Context, id string) error {
	if err := m.at(ctx, "delete", id); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.running, id)
	return nil
}

func (m *fakeMonitor) ReopenLog(ctx context.Context, id string) error {
	return m.at(ctx, "reopen", id)
}

func (m *fakeMonitor) Exec(_ context.Context, req monitor.ExecRequest) (Execution, *os.File, error) {
	return m.exec(req)
}

func (m *fakeMonitor) Attach(_ context.Context, req monitor.AttachRequest) (<-chan struct{}, error) {
	return m.attach(req)
}

func (m *fakeMonitor) Resize(context.Context, string, uint16, uint16) error { return nil }

type fakeNetwork struct {
	*faults
	mu       sync.Mutex
	attached map[string]cni.Pod
	debts    []string
	released []string
	status   cni.Status
	podCIDRs []netip.Prefix
}

// reboot leaves the addresses taken, as IPAM plugins do.
func (n *fakeNetwork) reboot() {}

func (n *fakeNetwork) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.attached)
}

func (n *fakeNetwork) Attach(ctx context.Context, pod cni.Pod) (*cni.Attachment, error) {
	if err := n.at(ctx, "attach", pod.ID); err != nil {
		return nil, err // and nothing is left, or a debt of the network
	}
	n.mu.Lock()
	n.attached[pod.ID] = pod
	n.mu.Unlock()
	return &cni.Attachment{
		IPs:    []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")},
		Result: []byte(`{"cniVersion":"1.1.0"}`),
	}, nil
}

func (n *fakeNetwork) Detach(ctx context.Context, id string) error {
	err := n.at(ctx, "detach", id)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, id)
	if err != nil {
		n.debts = append(n.debts, id)
	}
	return err
}

func (n *fakeNetwork) Release(_ context.Context, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.released = append(n.released, id)
}

func (n *fakeNetwork) Pods() ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Concat(slices.Collect(maps.Keys(n.attached)), n.debts), nil
}

func (n *fakeNetwork) Status() cni.Status { return n.status }

func (n *fakeNetwork) SetPodCIDRs(_ context.Context, prefixes []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.podCIDRs = prefixes
	return nil
}

type fakeRootfs struct {
	*faults
	mu      sync.Mutex
	mounted map[string]string
	kept    map[string]bool
	// changes are what root file systems were mounted with.
	changes []string
	// label and userns are those of the last mount.
	label, userns string
	// noUserNamespaces is why there are none.
	noUserNamespaces error
}

func (r *fakeRootfs) reboot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.mounted)
}

func (r *fakeRootfs) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.kept) + len(r.mounted)
}

func (r *fakeRootfs) MountRootfs(ctx context.Context, id, image, at, label, userns string) error {
	r.mu.Lock()
	r.mounted[id], r.kept[id], r.label, r.userns = at, true, label, userns
	r.mu.Unlock()
	return r.at(ctx, "mount", id)
}

func (r *fakeRootfs) ExportRootfs(ctx context.Context, id string, w io.Writer) error {
	if err := r.at(ctx, "export", id); err != nil {
		return err
	}
	_, err := io.WriteString(w, "changes of "+id)
	return err
}

func (r *fakeRootfs) MountRootfsFrom(ctx context.Context, id, image, at, label string, changes io.ReadSeeker) error {
	text, err := io.ReadAll(changes)
	r.mu.Lock()
	r.changes = append(r.changes, string(text))
	r.mu.Unlock()
	return errors.Join(err, r.MountRootfs(ctx, id, image, at, label, ""))
}

func (r *fakeRootfs) CheckpointOf(_ context.Context, image string) (bool, error) {
	return strings.HasPrefix(image, "checkpoint"), nil
}

func (r *fakeRootfs) ProbeUserNamespaces(string) error { return r.noUserNamespaces }

func (r *fakeRootfs) UnmountRootfs(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mounted, id)
	return nil
}

func (r *fakeRootfs) RemoveRootfs(ctx context.Context, id string) error {
	if err := r.at(ctx, "remove rootfs", id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mounted, id)
	delete(r.kept, id)
	return nil
}

func (r *fakeRootfs) MountImage(ctx context.Context, id, image, label, userns string) (string, error) {
	if err := r.at(ctx, "mount image", image); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.kept[id] {
		return "", fmt.Errorf("image for container %s, which has no root file system", id)
	}
	return "/images/" + image + label, nil
}

func (r *fakeRootfs) MakeVolumes(ctx context.Context, id string, paths []string) ([]string, error) {
	dirs := make([]string, len(paths))
	for i, p := range paths {
		dirs[i] = "/volumes/" + id + p
	}
	return dirs, r.at(ctx, "make volumes", id)
}

func (r *fakeRootfs) RootfsUsage(context.Context, string) (uint64, uint64, error) {
	return 4096, 3, nil
}

func (r *fakeRootfs) Rootfs(context.Context) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for id := range r.kept {
		ids = append(ids, id)
	}
	return ids, nil
}

type fakeNamespaces struct {
	*faults
	mu   sync.Mutex
	pins map[string]namespaces.Pins
	last namespaces.Request
}

func (f *fakeNamespaces) reboot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.pins)
}

func (f *fakeNamespaces) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pins)
}

func (f *fakeNamespaces) OpenUser(namespaces.UserMapping) (*os.File, error) {
	return os.Open(os.DevNull)
}

func (f *fakeNamespaces) Create(ctx context.Context, req namespaces.Request) (namespaces.Pins, error) {
	if err := os.MkdirAll(req.Dir, 0o700); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.last = req
	pins := namespaces.Pins{}
	for kind, want := range map[namespaces.Kind]bool{namespaces.Network: req.Network, namespaces.IPC: req.IPC, namespaces.UTS: req.UTS, namespaces.User: req.User != nil} {
		if want {
			pins[kind] = filepath.Join(req.Dir, string(kind))
		}
	}
	f.pins[req.Dir] = copyPins(pins)
	f.mu.Unlock()
	if err := f.at(ctx, "namespaces", req.Dir); err != nil {
		return nil, err
	}
	return pins, nil
}

func copyPins(pins namespaces.Pins) namespaces.Pins {
	c := namespaces.Pins{}
	for k, v := range pins {
		c[k] = v
	}
	return c
}

func (f *fakeNamespaces) Pin(ctx context.Context, dir string, kind namespaces.Kind, from string) (string, error) {
	if err := f.at(ctx, "pin", from); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pins[dir][kind] = filepath.Join(dir, string(kind))
	return f.pins[dir][kind], nil
}

func (f *fakeNamespaces) Find(dir string) namespaces.Pins {
	f.mu.Lock()
	defer f.mu.Unlock()
	return copyPins(f.pins[dir])
}

func (f *fakeNamespaces) Remove(ctx context.Context, dir string) error {
	if err := f.at(ctx, "remove namespaces", dir); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pins, dir)
	return nil
}

type fakeMounts struct {
	*faults
	mu      sync.Mutex
	mounted map[string]bool
	owner   podfiles.Owner // of the last, as is label
	label   string
}

func (f *fakeMounts) reboot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.mounted)
}

func (f *fakeMounts) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.mounted)
}

func (f *fakeMounts) MountTmpfs(path string, owner podfiles.Owner, label string) error {
	f.mu.Lock()
	f.mounted[path], f.owner, f.label = true, owner, label
	f.mu.Unlock()
	return f.at(context.Background(), "shm", path)
}

func (f *fakeMounts) Unmount(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mounted, path)
	return nil
}

const testImage = "sha256:0123456789abcdef"

type fakeImages struct{ *faults }

func (f fakeImages) Image(ctx context.Context, ref string) (string, *ocispec.Image, error) {
	if err := f.at(ctx, "image", ref); err != nil {
		return "", nil, err
	}
	if ref == "missing" {
		return "", nil, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
	}
	return testImage, &ocispec.Image{}, nil
}

func (f fakeImages) Admit(ctx context.Context, image, _, namespace string) error {
	return f.at(ctx, "admit", image+" in "+namespace)
}

func (f fakeImages) ImageStatus(context.Context, *runtimeapi.ImageSpec, bool) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{
		Id:          testImage,
		RepoTags:    []string{"example.test/app:v1"},
		RepoDigests: []string{"example.test/app@sha256:feed"},
	}}, nil
}

// buildTestSpec makes as much of a specification as the life cycles look at.
func buildTestSpec(_ context.Context, in spec.Input) (*specs.Spec, *spec.Resolved, error) {
	out := &specs.Spec{
		Process: &specs.Process{Args: in.Container.GetCommand(), Cwd: "/"},
		Root:    &specs.Root{Path: in.Rootfs},
		Linux:   &specs.Linux{CgroupsPath: in.CgroupsPath, Resources: &specs.LinuxResources{}},
	}
	for kind, path := range in.Namespaces {
		out.Linux.Namespaces = append(out.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
	return out, &spec.Resolved{
		User:       &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: 7}},
		StopSignal: syscall.SIGTERM,
		Mounts:     in.Container.GetMounts(),
	}, nil
}

// fakeExecution is a process that ends when told to.
type fakeExecution struct {
	exited chan monitor.Exit
	killed chan struct{}
}

func newFakeExecution() *fakeExecution {
	return &fakeExecution{exited: make(chan monitor.Exit, 1), killed: make(chan struct{})}
}

func (e *fakeExecution) Wait(ctx context.Context) (monitor.Exit, error) {
	select {
	case exit := <-e.exited:
		return exit, nil
	case <-ctx.Done():
		return monitor.Exit{}, ctx.Err()
	}
}

func (e *fakeExecution) Kill(context.Context) error {
	close(e.killed)
	return nil
}

func (e *fakeExecution) Close() error { return nil }

// podConfig is a pod as a kubelet sends it.
func podConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:    &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Labels:      map[string]string{"app": name},
		Annotations: map[string]string{"note": "kept"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/pod" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			},
		},
	}
}

func containerConfig(name string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: testImage},
		Command:  []string{"sleep", "1d"},
		Labels:   map[string]string{"container": name},
		LogPath:  name + "/0.log",
	}
}

func mustRun(t *testing.T, s *Service, config *runtimeapi.PodSandboxConfig) string {
	t.Helper()
	id, err := s.RunPodSandbox(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustCreate(t *testing.T, s *Service, sandbox, name string) string {
	t.Helper()
	id, err := s.CreateContainer(t.Context(), sandbox, containerConfig(name), nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustStart(t *testing.T, s *Service, sandbox, name string) string {
	t.Helper()
	id := mustCreate(t, s, sandbox, name)
	if err := s.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

func mustStatus(t *testing.T, s *Service, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	resp, err := s.ContainerStatus(t.Context(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetStatus()
}

// eventually waits for something that happens in the background; it is not a
// measurement, the limit only ends a test that hangs.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

var errBoom = errors.New("boom")

func boom(context.Context, string) error { return errBoom }

// writeCloser gives a strings.Builder a Close.
type writeCloser struct {
	mu sync.Mutex
	strings.Builder
}

func (w *writeCloser) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Builder.Write(p)
}

func (w *writeCloser) Close() error { return nil }

var _ io.WriteCloser = (*writeCloser)(nil)
