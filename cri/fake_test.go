package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// fakeRuntime answers with its hooks; without one, with err or something plain.
// It remembers what it was asked.
type fakeRuntime struct {
	err   error
	state runtimeapi.ContainerState

	mu    sync.Mutex
	calls []call

	runPodSandbox func(ctx context.Context, config *runtimeapi.PodSandboxConfig) (string, error)
	execSync      func(ctx context.Context, cmd []string, timeout time.Duration) ([]byte, []byte, int32, error)
	exec          func(ctx context.Context, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error
	attach        func(ctx context.Context, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error
	portForward   func(ctx context.Context, port int32, stream io.ReadWriteCloser) error
	streamEvents  func(ctx context.Context, send func(*runtimeapi.ContainerEventResponse) error) error
	list          func(ctx context.Context) ([]*runtimeapi.PodSandbox, error)
	containers    func(filter *runtimeapi.ContainerFilter) []*runtimeapi.Container
}

// call is one call that reached the fake.
type call struct {
	name, id string
	timeout  time.Duration
	deadline time.Duration // until the context's deadline, 0 without one
}

func (f *fakeRuntime) called(ctx context.Context, name, id string, timeout time.Duration) error {
	c := call{name: name, id: id, timeout: timeout}
	if d, ok := ctx.Deadline(); ok {
		c.deadline = time.Until(d)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, c)
	return f.err
}

// seen returns the calls so far.
func (f *fakeRuntime) seen() []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]call(nil), f.calls...)
}

func (f *fakeRuntime) RunPodSandbox(ctx context.Context, c *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	if f.runPodSandbox != nil {
		return f.runPodSandbox(ctx, c)
	}
	return sandboxID, f.called(ctx, "RunPodSandbox", "", 0)
}
func (f *fakeRuntime) StopPodSandbox(ctx context.Context, id string) error {
	return f.called(ctx, "StopPodSandbox", id, 0)
}
func (f *fakeRuntime) RemovePodSandbox(ctx context.Context, id string) error {
	return f.called(ctx, "RemovePodSandbox", id, 0)
}
func (f *fakeRuntime) PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{
		Id: id, CreatedAt: 1,
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Uid: "uid", Namespace: "default"},
	}}, f.called(ctx, "PodSandboxStatus", id, 0)
}
func (f *fakeRuntime) ListPodSandbox(ctx context.Context, _ *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	if f.list != nil {
		return f.list(ctx)
	}
	return []*runtimeapi.PodSandbox{{Id: sandboxID}}, f.called(ctx, "ListPodSandbox", "", 0)
}
func (f *fakeRuntime) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	return f.called(ctx, "UpdatePodSandboxResources", r.GetPodSandboxId(), 0)
}
func (f *fakeRuntime) SetPodCIDRs(ctx context.Context, prefixes []netip.Prefix) error {
	return f.called(ctx, "SetPodCIDRs", fmt.Sprint(prefixes), 0)
}
func (f *fakeRuntime) MetricDescriptors() []*runtimeapi.MetricDescriptor {
	return []*runtimeapi.MetricDescriptor{{Name: "m", Help: "h", LabelKeys: []string{"k"}}}
}
func (f *fakeRuntime) PodSandboxMetrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	return []*runtimeapi.PodSandboxMetrics{{PodSandboxId: sandboxID}}, f.called(ctx, "PodSandboxMetrics", "", 0)
}
func (f *fakeRuntime) CheckpointPod(ctx context.Context, r *runtimeapi.CheckpointPodRequest) error {
	return f.called(ctx, "CheckpointPod", r.GetPodSandboxId(), 0)
}
func (f *fakeRuntime) RestorePod(ctx context.Context, r *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return &runtimeapi.RestorePodResponse{PodSandboxId: sandboxID}, f.called(ctx, "RestorePod", r.GetCheckpointPath(), 0)
}
func (f *fakeRuntime) CheckpointContainer(ctx context.Context, id, _ string, timeout time.Duration) error {
	return f.called(ctx, "CheckpointContainer", id, timeout)
}
func (f *fakeRuntime) CreateContainer(ctx context.Context, sandbox string, _ *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	return containerID, f.called(ctx, "CreateContainer", sandbox, 0)
}
func (f *fakeRuntime) StartContainer(ctx context.Context, id string) error {
	return f.called(ctx, "StartContainer", id, 0)
}
func (f *fakeRuntime) StopContainer(ctx context.Context, id string, timeout time.Duration) error {
	return f.called(ctx, "StopContainer", id, timeout)
}
func (f *fakeRuntime) RemoveContainer(ctx context.Context, id string) error {
	return f.called(ctx, "RemoveContainer", id, 0)
}
func (f *fakeRuntime) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		Id: id, CreatedAt: 1, ImageRef: imageID, Image: &runtimeapi.ImageSpec{Image: "busybox"},
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, State: f.state,
	}}, f.called(ctx, "ContainerStatus", id, 0)
}
func (f *fakeRuntime) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	if f.containers != nil {
		return f.containers(filter), nil
	}
	return []*runtimeapi.Container{{Id: containerID}}, f.called(ctx, "ListContainers", "", 0)
}
func (f *fakeRuntime) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) error {
	return f.called(ctx, "UpdateContainerResources", r.GetContainerId(), 0)
}
func (f *fakeRuntime) ReopenContainerLog(ctx context.Context, id string) error {
	return f.called(ctx, "ReopenContainerLog", id, 0)
}
func (f *fakeRuntime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, int32, error) {
	if f.execSync != nil {
		return f.execSync(ctx, cmd, timeout)
	}
	return []byte("out"), []byte("err"), 3, f.called(ctx, "ExecSync", id, timeout)
}
func (f *fakeRuntime) ResolveContainer(ctx context.Context, id string) (string, error) {
	return containerID, f.called(ctx, "ResolveContainer", id, 0)
}
func (f *fakeRuntime) ResolveSandbox(ctx context.Context, id string) (string, error) {
	return sandboxID, f.called(ctx, "ResolveSandbox", id, 0)
}
func (f *fakeRuntime) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	if f.exec != nil {
		return f.exec(ctx, cmd, in, out, errw, tty, resize)
	}
	return f.called(ctx, "Exec", id, 0)
}
func (f *fakeRuntime) Attach(ctx context.Context, id string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	if f.attach != nil {
		return f.attach(ctx, in, out, errw, tty, resize)
	}
	return f.called(ctx, "Attach", id, 0)
}
func (f *fakeRuntime) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	if f.portForward != nil {
		return f.portForward(ctx, port, stream)
	}
	return f.called(ctx, "PortForward", id, 0)
}
func (f *fakeRuntime) ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	return &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{Id: id}}, f.called(ctx, "ContainerStats", id, 0)
}
func (f *fakeRuntime) ListContainerStats(ctx context.Context, _ *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return []*runtimeapi.ContainerStats{{}}, f.called(ctx, "ListContainerStats", "", 0)
}
func (f *fakeRuntime) PodSandboxStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	return &runtimeapi.PodSandboxStats{Attributes: &runtimeapi.PodSandboxAttributes{Id: id}}, f.called(ctx, "PodSandboxStats", id, 0)
}
func (f *fakeRuntime) ListPodSandboxStats(ctx context.Context, _ *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return []*runtimeapi.PodSandboxStats{{}}, f.called(ctx, "ListPodSandboxStats", "", 0)
}
func (f *fakeRuntime) StreamEvents(ctx context.Context, listening func() error, send func(*runtimeapi.ContainerEventResponse) error) error {
	if err := listening(); err != nil {
		return err
	}
	if f.streamEvents != nil {
		return f.streamEvents(ctx, send)
	}
	return f.called(ctx, "StreamEvents", "", 0)
}
func (f *fakeRuntime) RuntimeStatus(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true},
		{Type: runtimeapi.NetworkReady, Reason: "NoNetwork"},
	}}}, f.called(ctx, "RuntimeStatus", "", 0)
}

// fakeImages answers with err or with one image.
type fakeImages struct{ err error }

func (f *fakeImages) PullImage(context.Context, *runtimeapi.PullImageRequest) (string, error) {
	return imageID, f.err
}
func (f *fakeImages) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return []*runtimeapi.Image{{Id: imageID, Size: 1}}, f.err
}
func (f *fakeImages) ImageStatus(context.Context, *runtimeapi.ImageSpec, bool) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: imageID, Size: 1}}, f.err
}
func (f *fakeImages) RemoveImage(context.Context, *runtimeapi.ImageSpec) error { return f.err }
func (f *fakeImages) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	usage := []*runtimeapi.FilesystemUsage{{
		Timestamp: 1,
		FsId:      &runtimeapi.FilesystemIdentifier{Mountpoint: "/"},
		UsedBytes: &runtimeapi.UInt64Value{Value: 1}, InodesUsed: &runtimeapi.UInt64Value{Value: 1},
	}}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: usage, ContainerFilesystems: usage}, f.err
}

const (
	sandboxID   = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	containerID = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
	imageID     = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
)

// fixture is a Server that runs on a Unix socket, and a connection to it.
type fixture struct {
	runtime  *fakeRuntime
	images   *fakeImages
	registry *prometheus.Registry
	log      *syncBuffer
	server   *Server
	socket   string
	conn     *grpc.ClientConn
	// stop ends the server and returns what Run returned.
	stop func() error
}

// serve runs a Server for a test.
func serve(t testing.TB, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{
		runtime:  &fakeRuntime{},
		images:   &fakeImages{},
		registry: prometheus.NewRegistry(),
		log:      &syncBuffer{},
		socket:   filepath.Join(t.TempDir(), "cri.sock"),
	}
	o := Options{
		Runtime:      f.runtime,
		Images:       f.images,
		CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS,
		Version:      "v1.2.3",
		Logger:       slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registry:     f.registry,
	}
	if change != nil {
		change(&o)
	}
	var err error
	if f.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.server.Run(ctx, l) }()
	f.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	f.conn, err = grpc.NewClient("unix://"+f.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageSize)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.conn.Close()
		if err := f.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f
}

func (f *fixture) rpc() runtimeapi.RuntimeServiceClient {
	return runtimeapi.NewRuntimeServiceClient(f.conn)
}
func (f *fixture) imageRPC() runtimeapi.ImageServiceClient {
	return runtimeapi.NewImageServiceClient(f.conn)
}

// syncBuffer is a log that is written and read at the same time.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var errOops = errors.New("oops")

// eventually waits for a condition that another goroutine makes true.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("%s: not within 20 s", what)
}

// metric gathers the value of a metric with these label values; of a histogram,
// its count.
func (f *fixture) metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if slices.Equal(values, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}
