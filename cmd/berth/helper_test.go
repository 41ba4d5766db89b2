package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

// TestMain keeps the streaming libraries from writing into the tests' output.
func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

const waitLimit = 2 * time.Minute

// safeBuffer can be read while a command writes to it.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// invocation is one command line that runs.
type invocation struct {
	t        *testing.T
	out, err safeBuffer
	done     chan int
	cancel   context.CancelFunc
}

func begin(t *testing.T, s *fakecri.Server, in io.Reader, args ...string) *invocation {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	inv := &invocation{t: t, done: make(chan int, 1), cancel: cancel}
	t.Cleanup(cancel)
	if in == nil {
		in = strings.NewReader("")
	}
	go func() {
		inv.done <- execute(ctx, append([]string{"--address", s.Address}, args...), in, &inv.out, &inv.err)
	}()
	return inv
}

func (inv *invocation) wait() int {
	inv.t.Helper()
	select {
	case code := <-inv.done:
		return code
	case <-time.After(waitLimit):
		inv.t.Fatalf("berth does not end; output %q, errors %q", inv.out.String(), inv.err.String())
		return -1
	}
}

func (inv *invocation) waitFor(text string) {
	inv.t.Helper()
	eventually(inv.t, "output "+text, func() bool { return strings.Contains(inv.out.String(), text) })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waitLimit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// berth runs a command line to its end.
func berth(t *testing.T, s *fakecri.Server, args ...string) (code int, out, errOut string) {
	t.Helper()
	inv := begin(t, s, nil, args...)
	code = inv.wait()
	return code, inv.out.String(), inv.err.String()
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n--- got\n%s\n--- want\n%s", what, got, want)
	}
}

func wantOK(t *testing.T, s *fakecri.Server, args ...string) string {
	t.Helper()
	code, out, errOut := berth(t, s, args...)
	if code != 0 {
		t.Fatalf("berth %s: exit code %d, errors %q", strings.Join(args, " "), code, errOut)
	}
	return out
}

// wantFailure runs a command that has to fail with an exit code and all of the
// texts on standard error.
func wantFailure(t *testing.T, s *fakecri.Server, wantCode int, texts []string, args ...string) {
	t.Helper()
	code, out, errOut := berth(t, s, args...)
	if code != wantCode {
		t.Errorf("berth %s: exit code %d, want %d; output %q, errors %q", strings.Join(args, " "), code, wantCode, out, errOut)
	}
	for _, text := range texts {
		if !strings.Contains(errOut, text) {
			t.Errorf("berth %s: errors %q do not say %q", strings.Join(args, " "), errOut, text)
		}
	}
}

const (
	webPodID = "1a2b3c4d5e6f00000000000000000000000000000000000000000000000000aa"
	dbPodID  = "1a2b999999990000000000000000000000000000000000000000000000000bb0"
	webID    = "aaaa111111111111111111111111111111111111111111111111111111111111"
	oldWebID = "aaaa000000000000000000000000000000000000000000000000000000000000"
	sideID   = "bbbb222222222222222222222222222222222222222222222222222222222222"
	dbSideID = "cccc333333333333333333333333333333333333333333333333333333333333"
	imageID  = "sha256:feed456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// node starts a runtime with two pods. Nothing runs in their containers.
func node(t *testing.T) *fakecri.Server { return nodeWith(t, fakecri.Options{}) }

func nodeWith(t *testing.T, options fakecri.Options) *fakecri.Server {
	s := fakecri.Start(t, options)
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixNano() }
	s.AddPod(&runtimeapi.PodSandboxStatus{
		Id: webPodID, CreatedAt: ago(3*time.Minute + time.Second), Labels: map[string]string{"app": "web"},
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "web-0", Namespace: "default", Uid: "u1", Attempt: 1},
	})
	s.AddPod(&runtimeapi.PodSandboxStatus{
		Id: dbPodID, CreatedAt: ago(2*time.Hour + time.Minute), State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY,
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "db", Namespace: "prod", Uid: "u2"}, RuntimeHandler: "kata",
	})
	s.AddContainer(webPodID, &runtimeapi.ContainerStatus{
		Id: webID, Metadata: &runtimeapi.ContainerMetadata{Name: "nginx", Attempt: 1}, State: runtimeapi.ContainerState_CONTAINER_RUNNING,
		CreatedAt: ago(2*time.Minute + time.Second), Labels: map[string]string{"tier": "front"}, ImageId: imageID,
		Image: &runtimeapi.ImageSpec{Image: imageID, UserSpecifiedImage: "docker.io/library/nginx:1.27"},
	})
	s.AddContainer(webPodID, &runtimeapi.ContainerStatus{
		Id: oldWebID, Metadata: &runtimeapi.ContainerMetadata{Name: "nginx"}, State: runtimeapi.ContainerState_CONTAINER_EXITED,
		CreatedAt: ago(3*time.Minute + time.Second), ExitCode: 3, Reason: "Error", Image: &runtimeapi.ImageSpec{Image: imageID},
	})
	s.AddContainer(webPodID, &runtimeapi.ContainerStatus{
		Id: sideID, Metadata: &runtimeapi.ContainerMetadata{Name: "proxy"}, State: runtimeapi.ContainerState_CONTAINER_RUNNING,
		CreatedAt: ago(3*time.Minute + time.Second), Image: &runtimeapi.ImageSpec{Image: "proxy:2"},
	})
	s.AddContainer(dbPodID, &runtimeapi.ContainerStatus{
		Id: dbSideID, Metadata: &runtimeapi.ContainerMetadata{Name: "proxy"}, State: runtimeapi.ContainerState_CONTAINER_EXITED,
		CreatedAt: ago(2 * time.Hour), Image: &runtimeapi.ImageSpec{Image: "proxy:2"},
	})
	s.AddImage(&runtimeapi.Image{
		Id: imageID, Size: 71_234_567, RepoTags: []string{"docker.io/library/nginx:1.27", "registry.local:5000/nginx:stable"},
		RepoDigests: []string{"docker.io/library/nginx@sha256:abcdef0123456789000000000000000000000000000000000000000000000000"},
	})
	s.AddImage(&runtimeapi.Image{
		Id: "sha256:beef456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Size: 512, Pinned: true,
		RepoDigests: []string{"registry.local:5000/old@sha256:1111110123456789000000000000000000000000000000000000000000000000"},
	})
	return s
}
