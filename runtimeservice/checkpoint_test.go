package runtimeservice

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runTwo runs a pod of two containers.
func runTwo(t *testing.T, s *Service) (sandbox, a, b string) {
	t.Helper()
	sandbox = mustRun(t, s, podConfig("web"))
	return sandbox, mustStart(t, s, sandbox, "a"), mustStart(t, s, sandbox, "b")
}

// filesIn lists what is in a directory.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := filesIn(t, dir); !slices.Equal(got, want) {
		t.Errorf("in %s: %q, want %q", dir, got, want)
	}
}

func checkpointPod(ctx context.Context, s *Service, dir, sandbox string, ids ...string) error {
	return s.CheckpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: sandbox, OutputPath: dir, ContainerIds: ids})
}

func TestPodIsFrozenBeforeTheFirstDumpAndThawedAfterTheLast(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	sandbox, a, b := runTwo(t, s)
	dir := t.TempDir()
	if err := checkpointPod(t.Context(), s, dir, sandbox, a, b); err != nil {
		t.Fatal(err)
	}
	want := []string{"freeze " + a + " " + b, "dump " + a, "dump " + b, "thaw " + a + " " + b}
	if !slices.Equal(n.monitor.checkpoints, want) {
		t.Errorf("calls %q, want %q", n.monitor.checkpoints, want)
	}
	wantFiles(t, dir, "containers", "pod.dump")
	wantFiles(t, filepath.Join(dir, "containers", "1"), "checkpoint", "config.dump", "rootfs-diff.tar", "spec.dump", "status.dump")
	wantFiles(t, filepath.Join(n.root, "checkpoints"))
}

// Whatever step fails, or hangs until the time is over: the containers are told to go on,
// and nothing is left.
func TestFailedCheckpointLeavesNothing(t *testing.T) {
	hang := func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
	lost := func(context.Context, string) error { return errdefs.ErrFailedPrecondition }
	for name, test := range map[string]struct {
		step string
		do   func(context.Context, string) error
		want error
	}{
		"freeze fails":                      {"freeze", boom, errBoom},
		"freeze hangs":                      {"freeze", hang, context.DeadlineExceeded},
		"dump fails":                        {"dump", boom, errBoom},
		"dump hangs":                        {"dump", hang, context.DeadlineExceeded},
		"export fails":                      {"export", boom, errBoom},
		"export hangs":                      {"export", hang, context.DeadlineExceeded},
		"it did not stand still to the end": {"thaw", lost, errdefs.ErrFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			s, _ := n.start()
			sandbox, a, b := runTwo(t, s)
			n.on(test.step, test.do)
			for what, checkpoint := range map[string]func(context.Context, string) error{
				"pod": func(ctx context.Context, dir string) error { return checkpointPod(ctx, s, dir, sandbox, b, a) },
				"container": func(ctx context.Context, dir string) error {
					return s.CheckpointContainer(ctx, a, filepath.Join(dir, "a.tar"), 0)
				},
			} {
				n.monitor.checkpoints = nil
				dir := t.TempDir()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				err := checkpoint(ctx, dir)
				cancel()
				if !errors.Is(err, test.want) {
					t.Errorf("%s: error %v, want %v", what, err, test.want)
				}
				calls := n.monitor.checkpoints
				if last := calls[len(calls)-1]; last[:4] != "thaw" {
					t.Errorf("%s: calls %q", what, calls)
				}
				wantFiles(t, dir)
				wantFiles(t, filepath.Join(n.root, "checkpoints"))
			}
		})
	}
}

// A kill of the daemon in the middle: the next one removes what there is.
func TestCheckpointThatIsKilled(t *testing.T) {
	n := newNode(t)
	s := n.startToBeKilled()
	sandbox, a, b := runTwo(t, s)
	<-s.background.ended() // a dead daemon notes nothing any more
	dir, other := t.TempDir(), t.TempDir()
	killed := make(chan struct{})
	reached := make(chan struct{}, 2)
	hang := func(context.Context, string) error {
		reached <- struct{}{}
		<-killed
		return errBoom
	}
	n.on("export", hang)
	done := make(chan error, 2)
	go func() { done <- checkpointPod(context.Background(), s, dir, sandbox, a) }()
	go func() { done <- s.CheckpointContainer(context.Background(), b, filepath.Join(other, "b.tar"), 0) }()
	<-reached
	<-reached
	if len(filesIn(t, dir)) == 0 {
		t.Error("nothing is there to be removed")
	}
	if _, stop := n.start(); stop != nil {
		defer stop()
	}
	wantFiles(t, dir)
	wantFiles(t, other)
	wantFiles(t, filepath.Join(n.root, "checkpoints"))
	close(killed)
	<-done
	<-done
}

// checkpointed is the checkpoint of a pod that was removed, and a request to restore it.
func checkpointed(t *testing.T, s *Service) *runtimeapi.RestorePodRequest {
	t.Helper()
	sandbox, a, b := runTwo(t, s)
	dir := t.TempDir()
	if err := errors.Join(checkpointPod(t.Context(), s, dir, sandbox, a, b), s.RemovePodSandbox(t.Context(), sandbox)); err != nil {
		t.Fatal(err)
	}
	return &runtimeapi.RestorePodRequest{
		CheckpointPath: dir, Config: podConfig("again"),
		ContainerConfigs: []*runtimeapi.ContainerConfig{containerConfig("b"), containerConfig("a")},
	}
}

func TestRestorePod(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	req := checkpointed(t, s)
	resp, err := s.RestorePod(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range resp.GetRestoredContainers() {
		if status := mustStatus(t, s, c.GetContainerId()); status.GetState() != runtimeapi.ContainerState_CONTAINER_CREATED {
			t.Errorf("container %s is %s", c.GetName(), status.GetState())
		}
		if want := req.ContainerConfigs[i].GetMetadata().GetName(); c.GetName() != want {
			t.Errorf("container %d is %q, want %q", i, c.GetName(), want)
		}
	}
	if len(n.monitor.restored) > 0 {
		t.Errorf("%q run before they were started", n.monitor.restored)
	}
	// Also after a restart of the daemon they go on when they are started.
	stop()
	s, _ = n.start()
	if state := podState(t, s, resp.GetPodSandboxId()); state != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the sandbox is %s", state)
	}
	for _, c := range resp.GetRestoredContainers() {
		if err := s.StartContainer(t.Context(), c.GetContainerId()); err != nil {
			t.Error(err)
		}
	}
	if len(n.monitor.restored) != 2 {
		t.Errorf("%q went on", n.monitor.restored)
	}
	if err := s.RemovePodSandbox(t.Context(), resp.GetPodSandboxId()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the checkpoints are gone", func() bool { return len(filesIn(t, filepath.Join(n.root, "checkpoints"))) == 0 })
	n.assertEmpty()
}

// After an error of any step, and when nobody waits any more, the sandbox and all
// containers are gone.
func TestFailedRestoreLeavesNothing(t *testing.T) {
	for _, step := range []string{"attach", "image", "mount"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			s, _ := n.start()
			req := checkpointed(t, s)
			calls := 0
			n.on(step, func(context.Context, string) error {
				if calls++; calls == 2 || step == "attach" {
					return errBoom
				}
				return nil
			})
			if _, err := s.RestorePod(t.Context(), req); !errors.Is(err, errBoom) {
				t.Errorf("error %v", err)
			}
			n.assertEmpty()
			n.off(step)
			if _, err := s.RestorePod(t.Context(), req); err != nil {
				t.Errorf("another try: %v", err)
			}
		})
	}
	t.Run("the caller leaves", func(t *testing.T) {
		n := newNode(t)
		s, _ := n.start()
		req := checkpointed(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		n.on("mount", func(context.Context, string) error { cancel(); return nil })
		if _, err := s.RestorePod(ctx, req); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		n.assertEmpty()
	})
}

// A kill of the daemon in the middle of a restore: the next one removes the sandbox, which
// nobody was told of.
func TestRestoreThatIsKilled(t *testing.T) {
	n := newNode(t)
	s := n.startToBeKilled()
	req := checkpointed(t, s)
	<-s.background.ended() // a dead daemon notes nothing any more
	killed, reached, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	mounts := 0
	n.on("mount", func(context.Context, string) error {
		if mounts++; mounts < 2 {
			return nil
		}
		close(reached)
		<-killed
		return errBoom
	})
	go func() {
		_, err := s.RestorePod(context.Background(), req)
		done <- err
	}()
	<-reached
	next, _ := n.start()
	eventually(t, "the sandbox is gone", func() bool {
		all, err := next.ListPodSandbox(t.Context(), nil)
		return err == nil && len(all) == 0
	})
	eventually(t, "the root file systems are gone", func() bool { return n.rootfs.count() == 0 })
	eventually(t, "the copies are gone", func() bool { return len(filesIn(t, filepath.Join(n.root, "checkpoints"))) == 0 })
	n.assertEmpty()
	close(killed)
	<-done
}
