package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cri/berthapi"
)

// deadVolume is a FUSE file system with a file for each container that is to hang,
// since reads of one file wait for each other. They are never answered; once it is
// dead nothing is.
type deadVolume struct {
	dir    string
	server *fuse.Server
	dead   atomic.Bool
	// reads has an element for each read that waits.
	reads chan struct{}
	// gone is closed when the connection has been aborted.
	gone  chan struct{}
	abort func()
}

func mountDeadVolume(t testing.TB) *deadVolume {
	t.Helper()
	v := &deadVolume{dir: t.TempDir(), reads: make(chan struct{}, 64), gone: make(chan struct{})}
	never := time.Duration(0)
	server, err := gofuse.Mount(v.dir, &deadNode{volume: v}, &gofuse.Options{
		MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true, FsName: "dead", Name: "berthtest", MaxBackground: 64},
		AttrTimeout:  &never, EntryTimeout: &never,
	})
	if err != nil {
		t.Fatalf("mount a FUSE file system: %v", err)
	}
	v.server = server
	closeFuseOnExec(t)
	v.abort = sync.OnceFunc(func() {
		// Forced, it ends the connection: those who wait get an error.
		if err := unix.Unmount(v.dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Errorf("abort the FUSE file system: %v", err)
		}
		close(v.gone)
		server.Wait()
	})
	t.Cleanup(v.abort)
	return v
}

// closeFuseOnExec keeps the connection from the programs that the test starts.
func closeFuseOnExec(t testing.TB) {
	t.Helper()
	for _, link := range glob(t, "/proc/self/fd/*") {
		to, err := os.Readlink(link)
		if err != nil || to != "/dev/fuse" {
			continue
		}
		fd, err := strconv.Atoi(filepath.Base(link))
		if err != nil {
			t.Fatal(err)
		}
		unix.CloseOnExec(fd)
	}
}

// answer returns only if the volume still answers.
func (v *deadVolume) answer() {
	if v.dead.Load() {
		<-v.gone
	}
}

// deadNode is the root or, below it, a file.
type deadNode struct {
	gofuse.Inode
	volume *deadVolume
	file   bool
}

var (
	_ gofuse.NodeOnAdder   = (*deadNode)(nil)
	_ gofuse.NodeGetattrer = (*deadNode)(nil)
	_ gofuse.NodeLookuper  = (*deadNode)(nil)
	_ gofuse.NodeStatfser  = (*deadNode)(nil)
	_ gofuse.NodeOpener    = (*deadNode)(nil)
	_ gofuse.NodeReader    = (*deadNode)(nil)
	_ gofuse.NodeFlusher   = (*deadNode)(nil)
)

func (n *deadNode) OnAdd(ctx context.Context) {
	if n.file {
		return
	}
	for i := range hungPods {
		child := &deadNode{volume: n.volume, file: true}
		n.AddChild(fmt.Sprint("file", i), n.NewPersistentInode(ctx, child, gofuse.StableAttr{Mode: syscall.S_IFREG}), true)
	}
}

func (n *deadNode) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.volume.answer()
	out.Mode = 0o755
	if n.file {
		out.Size = 4096
	}
	return 0
}

func (n *deadNode) Lookup(_ context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	n.volume.answer()
	child := n.GetChild(name)
	if child == nil {
		return nil, syscall.ENOENT
	}
	out.Mode, out.Size = 0o755, 4096
	return child, 0
}

func (n *deadNode) Statfs(context.Context, *fuse.StatfsOut) syscall.Errno {
	n.volume.answer()
	return 0
}

func (n *deadNode) Open(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	n.volume.answer()
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (n *deadNode) Read(context.Context, gofuse.FileHandle, []byte, int64) (fuse.ReadResult, syscall.Errno) {
	n.volume.reads <- struct{}{}
	<-n.volume.gone
	return nil, syscall.EIO
}

// Flush comes with the end of a process, and no signal ends the wait for it.
func (n *deadNode) Flush(context.Context, gofuse.FileHandle) syscall.Errno {
	n.volume.answer()
	return 0
}

// hungPods are pods whose containers wait for a volume that does not answer any
// more, and cannot be killed.
const hungPods = 5

// hang runs them. Their volume is dead when it returns.
func hang(t testing.TB, d *daemon) (*deadVolume, []*ctr) {
	t.Helper()
	v := mountDeadVolume(t)
	var hung []*ctr
	for i := range hungPods {
		hung = append(hung, d.runPod(t).run(command("cat", fmt.Sprint("/dead/file", i)), mount(v.dir, "/dead")))
	}
	// Registered last, so it comes before the pods are removed.
	t.Cleanup(v.abort)
	for range hungPods {
		select {
		case <-v.reads:
		case <-time.After(time.Minute):
			t.Fatal("the containers do not read their volume")
		}
	}
	v.dead.Store(true)
	return v, hung
}

// Lists and statuses answer while containers hang on a dead volume, cannot be
// killed, and calls that stop, remove and enter them wait. These are bounded and
// say what they wait for; other pods live on. When the volume's end comes all is
// removed.
func TestDeadVolumeHurtsItsPodsOnly(t *testing.T) {
	d := ownDaemon(t, "")
	if err := warmUp(d); err != nil {
		t.Fatal(err)
	}
	checkLeaks(t, d)
	v, hung := hang(t, d)
	watched := d.runPod(t).run(command("sleep", "600"))

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var calls, stops sync.WaitGroup
	errs := make([]error, len(hung))
	for i, c := range hung {
		stops.Go(func() {
			switch i {
			case 0:
				errs[i] = d.runtime.StopPodSandbox(ctx, c.pod.id)
			case 1:
				errs[i] = d.runtime.RemovePodSandbox(ctx, c.pod.id)
			case 2:
				errs[i] = d.runtime.RemoveContainer(ctx, c.id)
			default:
				errs[i] = d.runtime.StopContainer(ctx, c.id, 0)
			}
		})
		calls.Go(func() { d.runtime.ExecSync(ctx, c.id, []string{"cat", "/dead/file0"}, time.Second) })
	}
	eventually(t, "the calls say that the processes do not end", func() bool {
		waiting := 0
		for _, op := range d.operations(t, "") {
			if slices.ContainsFunc(op.Steps, func(s berthapi.Step) bool { return s.WaitsFor == "the end of the container's processes after SIGKILL" }) {
				waiting++
			}
		}
		return waiting == len(hung)
	})

	for range 5 {
		for name, call := range readingCalls(t, d, hung[4], watched) {
			if err := answers(call); err != nil {
				t.Errorf("%s while containers hang: %v", name, err)
			}
		}
	}
	// Another pod can have all of its life meanwhile.
	p := d.runPod(t)
	c := p.run(command("sleep", "600"))
	if got := c.sh("echo alive"); got != "alive" {
		t.Errorf("another pod says %q", got)
	}
	c.stop(0)
	p.remove()

	stops.Wait() // each is bounded
	for i, err := range errs {
		if err == nil {
			t.Errorf("call %d says that a process is gone that cannot be killed", i)
		}
	}
	calls.Wait()
	// Nor does a new start of the daemon wait for them.
	d.restart(t, syscall.SIGKILL)
	for name, call := range readingCalls(t, d, hung[4], watched) {
		if err := answers(call); err != nil {
			t.Errorf("%s after a restart while containers hang: %v", name, err)
		}
	}
	// A container that is only now to get a file of the volume waits for it in its creation.
	late := d.runPod(t)
	calls.Go(func() {
		if _, err := late.tryCreate(mount(v.dir+"/file0", "/dead")); err == nil {
			t.Error("a container was created on a dead volume")
		}
	})
	eventually(t, "the creation says where it hangs", func() bool {
		ops := d.operations(t, "CreateContainer")
		return len(ops) == 1 && ops[0].Pod == late.config.Metadata.Name && len(ops[0].Steps) == 1 && ops[0].Steps[0].Stage == "create"
	})
	for name, call := range readingCalls(t, d, hung[4], watched) {
		if err := answers(call); err != nil {
			t.Errorf("%s while a creation hangs: %v", name, err)
		}
	}
	v.abort()
	calls.Wait()
	for _, c := range hung {
		c.pod.remove()
	}
}

// A path on a volume that is dead is not waited for by berthd itself: nobody can end a process
// that does. It can be killed, and answers meanwhile; so can the monitor.
func TestDeadVolumeLeavesTheDaemonKillable(t *testing.T) {
	d := ownDaemon(t, "")
	d.pull(t, busybox)
	p := d.runPod(t, hostNetwork)
	v := mountDeadVolume(t)
	mapped := v.dir + "/file4"
	created := d.runPod(t, userNamespace).create(mount(mapped, "/dead"))
	// Registered last, so it comes before the pods are removed.
	t.Cleanup(v.abort)
	v.dead.Store(true)
	file, device, linked, profile := v.dir+"/file0", v.dir+"/file1", link(t, v.dir+"/file2"), v.dir+"/file3"
	asked := map[string]ctrOption{
		"a volume's file": mount(file, "/dead"),
		"a link to one":   mount(linked, "/dead"),
		"a device": func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: device, ContainerPath: "/dev/x", Permissions: "rw"}}
		},
		"a seccomp profile": security(func(s securityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: profile}
		}),
	}
	var calls sync.WaitGroup
	for what, option := range asked {
		calls.Go(func() {
			if _, err := p.tryCreate(option); err == nil {
				t.Errorf("%s: a container was created on a dead volume", what)
			}
		})
	}
	calls.Go(func() {
		if err := d.runtime.StartContainer(context.Background(), created.id); err == nil {
			t.Error("a container was started on a dead volume")
		}
	})
	for _, path := range []string{file, device, linked, profile, mapped} {
		eventually(t, "a process looks at "+path, func() bool { return resolving(t, path) })
	}
	for _, op := range d.operations(t, "CreateContainer") {
		if !slices.ContainsFunc(op.Steps, func(s berthapi.Step) bool { return strings.HasPrefix(s.WaitsFor, "the file system of ") }) {
			t.Errorf("a creation does not say what it waits for: %+v", op.Steps)
		}
	}
	for _, pid := range []int{d.PID(), d.monitor(t)} {
		for _, stat := range glob(t, fmt.Sprintf("/proc/%d/task/*/stat", pid)) {
			text, err := os.ReadFile(stat)
			if err != nil {
				continue // a thread that has ended
			}
			if _, after, _ := strings.Cut(string(text), ") "); strings.HasPrefix(after, "D") {
				t.Errorf("a thread of process %d waits and cannot be killed", pid)
			}
		}
	}
	for name, call := range readingCalls(t, d) {
		if err := answers(call); err != nil {
			t.Errorf("%s meanwhile: %v", name, err)
		}
	}
	d.restart(t, syscall.SIGKILL)
	calls.Wait()
	for name, call := range readingCalls(t, d) {
		if err := answers(call); err != nil {
			t.Errorf("%s after a restart: %v", name, err)
		}
	}
	v.abort()
	for _, path := range []string{file, device, linked, profile, mapped} {
		eventually(t, "nobody waits for a volume that is gone", func() bool { return !resolving(t, path) })
	}
}

// link makes one to a path.
func link(t testing.TB, to string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// resolving tells whether a process looks at a path of that name.
func resolving(t testing.TB, path string) bool {
	t.Helper()
	for _, file := range glob(t, "/proc/[0-9]*/cmdline") {
		text, err := os.ReadFile(file)
		if err == nil && strings.HasSuffix(string(text), "\x00resolve-path\x00"+path+"\x00") {
			return true
		}
	}
	return false
}

// readingCalls are all that only look, by name; each of a container that hangs and
// of one that does not.
func readingCalls(t testing.TB, d *daemon, containers ...*ctr) map[string]func(context.Context) error {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	runtime, images := runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	calls := map[string]func(context.Context) error{
		"Version":                 looks(runtime.Version, &runtimeapi.VersionRequest{}),
		"Status":                  looks(runtime.Status, &runtimeapi.StatusRequest{Verbose: true}),
		"RuntimeConfig":           looks(runtime.RuntimeConfig, &runtimeapi.RuntimeConfigRequest{}),
		"ListPodSandbox":          looks(runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{}),
		"ListContainers":          looks(runtime.ListContainers, &runtimeapi.ListContainersRequest{}),
		"ListContainerStats":      looks(runtime.ListContainerStats, &runtimeapi.ListContainerStatsRequest{}),
		"ListPodSandboxStats":     looks(runtime.ListPodSandboxStats, &runtimeapi.ListPodSandboxStatsRequest{}),
		"ListMetricDescriptors":   looks(runtime.ListMetricDescriptors, &runtimeapi.ListMetricDescriptorsRequest{}),
		"ListPodSandboxMetrics":   looks(runtime.ListPodSandboxMetrics, &runtimeapi.ListPodSandboxMetricsRequest{}),
		"StreamPodSandboxes":      streams(runtime.StreamPodSandboxes, &runtimeapi.StreamPodSandboxesRequest{}),
		"StreamContainers":        streams(runtime.StreamContainers, &runtimeapi.StreamContainersRequest{}),
		"StreamContainerStats":    streams(runtime.StreamContainerStats, &runtimeapi.StreamContainerStatsRequest{}),
		"StreamPodSandboxStats":   streams(runtime.StreamPodSandboxStats, &runtimeapi.StreamPodSandboxStatsRequest{}),
		"StreamPodSandboxMetrics": streams(runtime.StreamPodSandboxMetrics, &runtimeapi.StreamPodSandboxMetricsRequest{}),
		"ListImages":              looks(images.ListImages, &runtimeapi.ListImagesRequest{}),
		"ImageFsInfo":             looks(images.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{}),
		"ImageStatus":             looks(images.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: busybox}, Verbose: true}),
	}
	for _, c := range containers {
		calls["PodSandboxStatus of "+c.id[:8]] = looks(runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: c.pod.id, Verbose: true})
		calls["PodSandboxStats of "+c.id[:8]] = looks(runtime.PodSandboxStats, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: c.pod.id})
		calls["ContainerStatus of "+c.id[:8]] = looks(runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: c.id, Verbose: true})
		calls["ContainerStats of "+c.id[:8]] = looks(runtime.ContainerStats, &runtimeapi.ContainerStatsRequest{ContainerId: c.id})
	}
	return calls
}

func looks[Q, A any](call func(context.Context, Q, ...grpc.CallOption) (A, error), req Q) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := call(ctx, req)
		return err
	}
}

func streams[Q, A any](call func(context.Context, Q, ...grpc.CallOption) (grpc.ServerStreamingClient[A], error), req Q) func(context.Context) error {
	return func(ctx context.Context) error {
		stream, err := call(ctx, req)
		for err == nil {
			_, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

// answers is the call's error, also that it does not answer in time.
func answers(call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	return call(ctx)
}

// What the lists of a node cost with and without containers that hang: the
// slowest of a hundred.
func BenchmarkListsBesideHungContainers(b *testing.B) {
	d := shared
	var pods []*pod // as many as later hang, and as many again
	for range 2 * hungPods {
		p := d.runPod(b)
		p.run(command("sleep", "600"))
		pods = append(pods, p)
	}
	b.Run("before", func(b *testing.B) { slowestOfLists(b, d) })
	for _, p := range pods[:hungPods] {
		p.remove()
	}
	v, _ := hang(b, d)
	b.Run("hung", func(b *testing.B) { slowestOfLists(b, d) })
	v.abort()
}

func slowestOfLists(b *testing.B, d *daemon) {
	calls := readingCalls(b, d)
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		if !strings.HasPrefix(name, "List") {
			continue
		}
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if err := answers(calls[name]); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
