package cri

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestNewNeedsItsServices(t *testing.T) {
	if _, err := New(Options{Images: &fakeImages{}}); err == nil {
		t.Error("a server without a runtime was made")
	}
	if _, err := New(Options{Runtime: &fakeRuntime{}}); err == nil {
		t.Error("a server without images was made")
	}
	for _, address := range []string{"0.0.0.0", "192.0.2.1", "localhost", "::"} {
		_, err := New(Options{Runtime: &fakeRuntime{}, Images: &fakeImages{}, Streaming: StreamingOptions{Address: address}})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("streaming on %s: %v", address, err)
		}
	}
}

// What a malformed request answers does not depend on the services, and they
// never see it.
func TestMalformedRequestsStopAtTheBorder(t *testing.T) {
	f := serve(t, nil)
	ctx := t.Context()
	_, err := f.rpc().RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "config.metadata: must be set") {
		t.Errorf("RunPodSandbox: %v", err)
	}
	_, err = f.rpc().StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: "a", Timeout: -1})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "timeout: ") {
		t.Errorf("StopContainer: %v", err)
	}
	_, err = f.imageRPC().PullImage(ctx, &runtimeapi.PullImageRequest{})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "image.image: must not be empty") {
		t.Errorf("PullImage: %v", err)
	}
	if seen := f.runtime.seen(); len(seen) != 0 {
		t.Errorf("the service saw %v", seen)
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = b; return nil }
func (rawCodec) Name() string                    { return "proto" }

func TestUndecodableRequestsAreInvalidArguments(t *testing.T) {
	f := serve(t, nil)
	for name, c := range map[string]struct{ wire, want string }{
		"not UTF-8": {"\x0a\x02\xff\xfe", "container_id: is not UTF-8"},
		"truncated": {"\x0a\x7f", "decode the request"},
		"garbage":   {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "decode the request"},
	} {
		req, resp := []byte(c.wire), []byte(nil)
		err := f.conn.Invoke(t.Context(), runtimeapi.RuntimeService_StartContainer_FullMethodName, &req, &resp, grpc.ForceCodec(rawCodec{}))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStopAndRemoveAreIdempotent(t *testing.T) {
	f := serve(t, nil)
	ctx := t.Context()
	calls := map[string]func() error{
		"StopPodSandbox": func() error {
			_, err := f.rpc().StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: "no-such-id"})
			return err
		},
		"RemovePodSandbox": func() error {
			_, err := f.rpc().RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "no-such-id"})
			return err
		},
		"StopContainer": func() error {
			_, err := f.rpc().StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: "no-such-id"})
			return err
		},
		"RemoveContainer": func() error {
			_, err := f.rpc().RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: "no-such-id"})
			return err
		},
		"RemoveImage": func() error {
			_, err := f.imageRPC().RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: "none"}})
			return err
		},
	}
	notFound := fmt.Errorf("look up %q: %w", "no-such-id", errdefs.ErrNotFound)
	f.runtime.err, f.images.err = notFound, notFound
	for name, call := range calls {
		if err := call(); err != nil {
			t.Errorf("%s of what is not there: %v", name, err)
		}
	}
	f.runtime.err, f.images.err = errOops, errOops
	for name, call := range calls {
		if err := call(); status.Code(err) != codes.Internal {
			t.Errorf("%s that fails: %v", name, err)
		}
	}
	f.runtime.err = notFound
	if _, err := f.rpc().StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: "a"}); status.Code(err) != codes.NotFound {
		t.Errorf("StartContainer: %v", err)
	}
	if _, err := f.rpc().ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: "a"}); status.Code(err) != codes.NotFound {
		t.Errorf("ContainerStatus: %v", err)
	}
}

func TestPanicsAreInternalErrors(t *testing.T) {
	f := serve(t, nil)
	f.runtime.runPodSandbox = func(context.Context, *runtimeapi.PodSandboxConfig) (string, error) {
		panic("in a call")
	}
	f.runtime.streamEvents = func(context.Context, func(*runtimeapi.ContainerEventResponse) error) error { panic("in a stream") }
	_, err := f.rpc().RunPodSandbox(t.Context(), goodRunPodSandbox())
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "in a call") {
		t.Errorf("RunPodSandbox: %v", err)
	}
	stream, err := f.rpc().GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("GetContainerEvents: %v", err)
	}
	if _, err := f.rpc().Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Errorf("after the panics: %v", err)
	}
	if log := f.log.String(); strings.Count(log, "panic in a handler") != 2 || !strings.Contains(log, "server_test.go") {
		t.Errorf("the log has no stack:\n%s", log)
	}
}

func TestMetricsOfCalls(t *testing.T) {
	f := serve(t, nil)
	ctx := t.Context()
	entered, leave := make(chan struct{}), make(chan struct{})
	f.runtime.list = func(context.Context) ([]*runtimeapi.PodSandbox, error) {
		close(entered)
		<-leave
		return nil, nil
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.rpc().ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		done <- err
	}()
	<-entered
	if n := f.metric(t, "berth_cri_requests_in_flight", "ListPodSandbox"); n != 1 {
		t.Errorf("%v calls in flight", n)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.rpc().StartContainer(ctx, &runtimeapi.StartContainerRequest{})
	f.rpc().UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{})
	eventually(t, "the counts", func() bool {
		return f.metric(t, "berth_cri_requests_total", "InvalidArgument", "StartContainer") == 1 &&
			f.metric(t, "berth_cri_requests_total", "OK", "ListPodSandbox") == 1 &&
			f.metric(t, "berth_cri_requests_total", "OK", "UpdateRuntimeConfig") == 1
	})
	for _, method := range []string{"ListPodSandbox", "StartContainer", "UpdateRuntimeConfig"} {
		if n := f.metric(t, "berth_cri_request_duration_seconds", method); n != 1 {
			t.Errorf("%v durations of %s", n, method)
		}
	}
	if n := f.metric(t, "berth_cri_requests_in_flight", "ListPodSandbox"); n != 0 {
		t.Errorf("%v calls in flight after the last", n)
	}
}

func TestLogOfCalls(t *testing.T) {
	f := serve(t, nil)
	ctx := t.Context()
	if _, err := f.rpc().RunPodSandbox(ctx, goodRunPodSandbox()); err != nil {
		t.Fatal(err)
	}
	create := goodCreateContainer()
	create.Config.Envs = append(create.Config.Envs, &runtimeapi.KeyValue{Key: "PASSWORD", Value: []byte("hunter2")})
	if _, err := f.rpc().CreateContainer(ctx, create); err != nil {
		t.Fatal(err)
	}
	f.images.err = errOops
	f.imageRPC().PullImage(ctx, &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: "busybox"}, Auth: &runtimeapi.AuthConfig{Password: "hunter2"},
	})
	f.rpc().Version(ctx, &runtimeapi.VersionRequest{})

	lines := map[string]string{}
	eventually(t, "four lines", func() bool {
		clear(lines)
		for line := range strings.Lines(f.log.String()) {
			for _, word := range strings.Fields(line) {
				if method, ok := strings.CutPrefix(word, "method="); ok {
					lines[method] = line
				}
			}
		}
		return len(lines) == 4
	})
	for method, words := range map[string][]string{
		"RunPodSandbox": {"level=INFO", "namespace=default", "pod=web-0", "uid=0f5e8d2c-7d7c-4b0f-9a4b-3f3c1f6a2b11", "handler=kata-qemu", "sandbox_id=" + sandboxID, "duration=", "outcome=OK"},
		"CreateContainer": {"level=INFO", "pod=web-0", "container=nginx", "image=" + imageID, "sandbox_id=" + sandboxID,
			"container_id=" + containerID, "outcome=OK"},
		"PullImage": {"level=WARN", "image=busybox", "outcome=Internal", "error=oops"},
		"Version":   {"level=DEBUG", "outcome=OK"},
	} {
		for _, w := range words {
			if !strings.Contains(lines[method], w) {
				t.Errorf("the line of %s has no %q: %s", method, w, lines[method])
			}
		}
	}
	if strings.Contains(f.log.String(), "hunter2") {
		t.Error("a secret is in the log")
	}
}

func TestDefaultDeadlines(t *testing.T) {
	f := serve(t, nil)
	ctx := context.Background()
	f.rpc().ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	f.rpc().StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: "a"})
	f.rpc().StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: "a", Timeout: 3600})
	f.rpc().StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: "a", Timeout: math.MaxInt64})
	f.rpc().ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: "a", Cmd: []string{"a"}})
	f.rpc().ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: "a", Cmd: []string{"a"}, Timeout: 7200})
	short, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	f.rpc().StartContainer(short, &runtimeapi.StartContainerRequest{ContainerId: "a"})

	seen := f.runtime.seen()
	between := func(i int, low, high time.Duration) {
		t.Helper()
		if d := seen[i].deadline; d < low || d > high {
			t.Errorf("call %d (%s) has %v, want %v to %v", i, seen[i].name, d, low, high)
		}
	}
	between(0, readDeadline-30*time.Second, readDeadline)
	between(1, changeDeadline-time.Minute, changeDeadline)
	between(2, time.Hour, time.Hour+changeDeadline)
	between(3, 24*time.Hour, maxDuration)
	between(4, 0, 0)
	between(5, 2*time.Hour, 2*time.Hour+changeDeadline)
	between(6, time.Second, 20*time.Second)
	if seen[3].timeout != maxDuration {
		t.Errorf("the largest timeout became %v", seen[3].timeout)
	}
}

func TestDeadlineErrorsKeepTheirCode(t *testing.T) {
	f := serve(t, nil)
	f.runtime.execSync = func(ctx context.Context, _ []string, timeout time.Duration) ([]byte, []byte, int32, error) {
		return nil, nil, 0, fmt.Errorf("exec in container: %w", context.DeadlineExceeded)
	}
	_, err := f.rpc().ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: "a", Cmd: []string{"a"}, Timeout: 1})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("ExecSync: %v", err)
	}
}

func TestExecSyncFitsTheMessage(t *testing.T) {
	f := serve(t, nil)
	full := make([]byte, 16<<20)
	f.runtime.execSync = func(context.Context, []string, time.Duration) ([]byte, []byte, int32, error) {
		return full, full[:100], 5, nil
	}
	resp, err := f.rpc().ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: "a", Cmd: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Stdout) != maxExecOutput-100 || len(resp.Stderr) != 100 || resp.ExitCode != 5 {
		t.Errorf("%d bytes, %d bytes, code %d", len(resp.Stdout), len(resp.Stderr), resp.ExitCode)
	}
	for _, c := range [][4]int{ // stdout, stderr, and what is left of them of 100
		{10, 20, 10, 20}, {50, 50, 50, 50}, {200, 0, 100, 0}, {0, 200, 0, 100}, {200, 30, 70, 30}, {30, 200, 30, 70}, {200, 200, 50, 50},
	} {
		stdout, stderr := fit(full[:c[0]], full[:c[1]], 100)
		if len(stdout) != c[2] || len(stderr) != c[3] {
			t.Errorf("%v: %d and %d bytes", c, len(stdout), len(stderr))
		}
	}
}

func TestEventsAreStreamed(t *testing.T) {
	f := serve(t, nil)
	events := make(chan *runtimeapi.ContainerEventResponse)
	left := make(chan struct{})
	f.runtime.streamEvents = func(ctx context.Context, send func(*runtimeapi.ContainerEventResponse) error) error {
		defer close(left)
		for {
			select {
			case e := <-events:
				if err := send(e); err != nil {
					return err
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := f.rpc().GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatalf("the headers, before any event: %v", err)
	}
	for _, id := range []string{"a", "b"} {
		events <- &runtimeapi.ContainerEventResponse{ContainerId: id}
		if e, err := stream.Recv(); err != nil || e.ContainerId != id {
			t.Fatalf("event %v, %v", e, err)
		}
	}
	cancel()
	<-left
}

func TestEventStreamEndings(t *testing.T) {
	f := serve(t, nil)
	f.runtime.err = fmt.Errorf("the client does not keep up: %w", errdefs.ErrResourceExhausted)
	stream, err := f.rpc().GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a slow client: %v", err)
	}
	f.runtime.err = nil
	if stream, err = f.rpc().GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("a stream that ended: %v", err)
	}
}

// A stop ends event streams and waits for calls that run.
func TestGracefulStop(t *testing.T) {
	f := serve(t, nil)
	f.runtime.streamEvents = func(ctx context.Context, _ func(*runtimeapi.ContainerEventResponse) error) error {
		<-ctx.Done()
		return nil
	}
	stream, err := f.rpc().GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	f.runtime.runPodSandbox = func(context.Context, *runtimeapi.PodSandboxConfig) (string, error) {
		close(entered)
		<-leave
		return sandboxID, nil
	}
	ran := make(chan error, 1)
	go func() {
		_, err := f.rpc().RunPodSandbox(t.Context(), goodRunPodSandbox())
		ran <- err
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- f.stop() }()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the event stream: %v", err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped while a call ran: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	if err := <-ran; err != nil {
		t.Errorf("the call that ran: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A call that does not end is given up after the grace; its context says so.
func TestForcedStop(t *testing.T) {
	f := serve(t, func(o *Options) { o.StopGrace = 20 * time.Millisecond })
	entered := make(chan struct{})
	f.runtime.runPodSandbox = func(ctx context.Context, _ *runtimeapi.PodSandboxConfig) (string, error) {
		close(entered)
		<-ctx.Done()
		return "", ctx.Err()
	}
	ran := make(chan error, 1)
	go func() {
		_, err := f.rpc().RunPodSandbox(t.Context(), goodRunPodSandbox())
		ran <- err
	}()
	<-entered
	if err := f.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := <-ran; err == nil {
		t.Error("the call succeeded")
	}
}

func TestMessageSizeLimits(t *testing.T) {
	f := serve(t, nil)
	large := goodRunPodSandbox()
	large.Config.Annotations["large"] = strings.Repeat("x", 15<<20)
	if _, err := f.rpc().RunPodSandbox(t.Context(), large); err != nil {
		t.Errorf("15 MiB: %v", err)
	}
	large.Config.Annotations["larger"] = strings.Repeat("x", 2<<20)
	if _, err := f.rpc().RunPodSandbox(t.Context(), large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("17 MiB: %v", err)
	}
}

func TestVersions(t *testing.T) {
	for v, want := range map[string]string{
		"v1.2.3": "1.2.3", "1.2.3": "1.2.3", "v0.1.0-rc.1": "0.1.0-rc.1", "v0.1.0-3-gabcdef": "0.1.0-3-gabcdef",
		"1.2.3+build": "1.2.3+build", "": "0.0.0", "unknown": "0.0.0+unknown", "4f8c985-dirty": "0.0.0+4f8c985-dirty",
		"a b..c/": "0.0.0+a-b.c-", "v1.02.3": "0.0.0+1.02.3",
	} {
		if got := semanticVersion(v); got != want {
			t.Errorf("%q became %q, want %q", v, got, want)
		}
	}
}
