package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

func TestContainerLife(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	pod := podConfig("web")
	pod.LogDirectory = t.TempDir()
	sandbox := mustRun(t, s, pod)
	config := containerConfig("app")
	config.Annotations = map[string]string{"restart count": "3"}
	config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: "/tmp"}}
	config.Linux = &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{CpuShares: 512}}
	config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b")}}
	asked := proto.Clone(config).(*runtimeapi.ContainerConfig)
	id, err := s.CreateContainer(t.Context(), sandbox, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(config, asked) {
		t.Error("the request was changed")
	}
	status := mustStatus(t, s, id)
	switch {
	case status.GetState() != runtimeapi.ContainerState_CONTAINER_CREATED,
		status.GetImage().GetImage() != "example.test/app:v1",
		status.GetImageId() != testImage,
		status.GetImageRef() != "example.test/app@sha256:feed",
		status.GetLogPath() != filepath.Join(pod.LogDirectory, "app/0.log"),
		status.GetAnnotations()["restart count"] != "3",
		status.GetResources().GetLinux().GetCpuShares() != 512,
		status.GetUser().GetLinux().GetUid() != 7,
		status.GetStopSignal() != runtimeapi.Signal_SIGNAL_SIGTERM,
		len(status.GetMounts()) != 1 || status.GetMounts()[0].GetContainerPath() != "/data",
		status.GetStartedAt() != 0 || status.GetFinishedAt() != 0:
		t.Errorf("created: %v", status)
	}
	if err := s.StopContainer(t.Context(), id, 0); err != nil {
		t.Errorf("stop of a created container: %v", err)
	}
	if err := s.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := s.StartContainer(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v", err)
	}
	status = mustStatus(t, s, id)
	if status.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || status.GetStartedAt() < status.GetCreatedAt() {
		t.Errorf("running: %v", status)
	}
	n.monitor.exit(id, monitor.Exit{Code: 3})
	status = mustStatus(t, s, id)
	if status.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || status.GetExitCode() != 3 ||
		status.GetReason() != "Error" || status.GetFinishedAt() < status.GetStartedAt() {
		t.Errorf("exited: %v", status)
	}
	eventually(t, "the monitor forgets it", func() bool { return n.monitor.process(id) == nil })
	for range 2 {
		if err := s.StopContainer(t.Context(), id, time.Second); err != nil {
			t.Error(err)
		}
		if err := s.RemoveContainer(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.ContainerStatus(t.Context(), id, false); !errdefs.IsNotFound(err) {
		t.Errorf("status after remove: %v", err)
	}
	if err := s.RemovePodSandbox(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	n.assertEmpty()
}

func TestExitReasons(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	sandbox := mustRun(t, s, podConfig("web"))
	for i, c := range []struct {
		exit   monitor.Exit
		code   int32
		reason string
	}{
		{monitor.Exit{Code: 0}, 0, "Completed"},
		{monitor.Exit{Code: 1}, 1, "Error"},
		{monitor.Exit{Code: 137}, 137, "Error"},
		{monitor.Exit{Code: 137, OOMKilled: true}, 137, "OOMKilled"},
		{monitor.Exit{Code: 0, OOMKilled: true}, 0, "Completed"},
		{monitor.Exit{Code: 255, Unknown: true, Reason: "nobody saw it"}, 255, "Unknown"},
	} {
		id := mustStart(t, s, sandbox, fmt.Sprint("c", i))
		n.monitor.exit(id, c.exit)
		status := mustStatus(t, s, id)
		if status.GetExitCode() != c.code || status.GetReason() != c.reason || status.GetMessage() != c.exit.Reason {
			t.Errorf("%+v became %d, %s, %q", c.exit, status.GetExitCode(), status.GetReason(), status.GetMessage())
		}
	}
}

func TestFailedCreateIsUndone(t *testing.T) {
	for _, step := range []string{"image", "mount", "specification", "record of it"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			s, _ := n.start()
			sandbox := mustRun(t, s, podConfig("web"))
			n.on(step, boom)
			n.build = func(ctx context.Context, in spec.Input) (*specs.Spec, *spec.Resolved, error) {
				switch step {
				case "specification":
					return nil, nil, errBoom
				case "record of it":
					if err := os.Symlink("/dev/full", filepath.Join(n.root, "specs", in.ID+".json")); err != nil {
						t.Error(err)
					}
				}
				return buildTestSpec(ctx, in)
			}
			if id, err := s.CreateContainer(t.Context(), sandbox, containerConfig("app"), nil); err == nil {
				t.Fatalf("created %s", id)
			}
			if n.rootfs.count() != 0 {
				t.Error("a root file system is left")
			}
			for _, dir := range []string{n.root, n.state} {
				if left, err := os.ReadDir(filepath.Join(dir, "containers")); err != nil || len(left) != 0 {
					t.Errorf("left in %s: %v, %v", dir, left, err)
				}
			}
			n.off(step)
			n.build = buildTestSpec
			mustCreate(t, s, sandbox, "app")
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	pod := podConfig("web")
	pod.LogDirectory = t.TempDir()
	sandbox := mustRun(t, s, pod)
	other := mustStart(t, s, mustRun(t, s, podConfig("other")), "target")
	ended := mustStart(t, s, sandbox, "ended")
	n.monitor.exit(ended, monitor.Exit{})
	target := func(id string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			c.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: id},
			}}
		}
	}
	before := len(n.rootfs.kept)
	for name, c := range map[string]struct {
		change func(*runtimeapi.ContainerConfig)
		want   error
		says   string
	}{
		"metadata":          {func(c *runtimeapi.ContainerConfig) { c.Metadata = nil }, errdefs.ErrInvalidArgument, "config.metadata"},
		"name":              {func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "" }, errdefs.ErrInvalidArgument, "config.metadata.name"},
		"image":             {func(c *runtimeapi.ContainerConfig) { c.Image = nil }, errdefs.ErrInvalidArgument, "config.image"},
		"unknown image":     {func(c *runtimeapi.ContainerConfig) { c.Image.Image = "missing" }, errdefs.ErrNotFound, "missing"},
		"log path":          {func(c *runtimeapi.ContainerConfig) { c.LogPath = "../other/0.log" }, errdefs.ErrInvalidArgument, "config.log_path"},
		"absolute log path": {func(c *runtimeapi.ContainerConfig) { c.LogPath = "/etc/passwd" }, errdefs.ErrInvalidArgument, "config.log_path"},
		"devious log path":  {func(c *runtimeapi.ContainerConfig) { c.LogPath = "a/../../b" }, errdefs.ErrInvalidArgument, "config.log_path"},
		"privileged": {func(c *runtimeapi.ContainerConfig) {
			c.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{Privileged: true}}
		}, errdefs.ErrInvalidArgument, "privileged"},
		"unknown target":        {target("nobody"), errdefs.ErrNotFound, "target_id"},
		"target of other pod":   {target(other), errdefs.ErrInvalidArgument, "another sandbox"},
		"target that has ended": {target(ended), errdefs.ErrFailedPrecondition, "target_id"},
	} {
		t.Run(name, func(t *testing.T) {
			config := containerConfig("app")
			c.change(config)
			_, err := s.CreateContainer(t.Context(), sandbox, config, nil)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want %v with %q", err, c.want, c.says)
			}
			if len(n.rootfs.kept) != before {
				t.Error("a root file system is left")
			}
		})
	}
	if _, err := s.CreateContainer(t.Context(), "nobody", containerConfig("app"), nil); !errdefs.IsNotFound(err) {
		t.Errorf("unknown sandbox: %v", err)
	}
	if err := s.StopPodSandbox(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateContainer(t.Context(), sandbox, containerConfig("app"), nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("stopped sandbox: %v", err)
	}
}

func TestTargetIsLookedUpAgainAtStart(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	sandbox := mustRun(t, s, podConfig("web"))
	target := mustStart(t, s, sandbox, "target")
	config := containerConfig("debug")
	config.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: target},
	}}
	id, err := s.CreateContainer(t.Context(), sandbox, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	n.monitor.exit(target, monitor.Exit{})
	if err := s.StartContainer(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start with a target that has ended: %v", err)
	}
}

func TestFailedStart(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	sandbox := mustRun(t, s, podConfig("web"))
	command := func(text string) error {
		return fmt.Errorf("%w: %s: %w", protocol.ErrCommand, text, errdefs.ErrInvalidArgument)
	}
	for i, c := range []struct {
		err  error
		code int32
	}{
		{command(`exec: "nope": executable file not found in $PATH`), 127},
		{command(`exec: "/nope": stat /nope: no such file or directory`), 127},
		{command(`exec: "/etc": permission denied`), 126},
		{errBoom, 128},
	} {
		id := mustCreate(t, s, sandbox, fmt.Sprint("c", i))
		n.on("start", func(context.Context, string) error { return c.err })
		if err := s.StartContainer(t.Context(), id); !errors.Is(err, c.err) {
			t.Errorf("error is %v", err)
		}
		status := mustStatus(t, s, id)
		if status.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || status.GetExitCode() != c.code ||
			status.GetReason() != "ContainerCannotRun" || !strings.Contains(status.GetMessage(), c.err.Error()) ||
			status.GetFinishedAt() == 0 || status.GetStartedAt() != 0 {
			t.Errorf("%v: %v", c.err, status)
		}
		if err := s.StartContainer(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("second start: %v", err)
		}
	}
	n.off("start")
}

// TestStartThatSucceededUnheard is a monitor whose answer got lost: nothing may
// run that is recorded as failed.
func TestStartThatSucceededUnheard(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustCreate(t, s, mustRun(t, s, podConfig("web")), "app")
	n.on("started", boom)
	if err := s.StartContainer(t.Context(), id); !errors.Is(err, errBoom) {
		t.Fatalf("error is %v", err)
	}
	if n.monitor.process(id) != nil {
		t.Error("it runs")
	}
}

func TestProcessThatEndsBeforeItsStartIsRecorded(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustCreate(t, s, mustRun(t, s, podConfig("web")), "app")
	n.on("started", func(_ context.Context, id string) error {
		n.monitor.exit(id, monitor.Exit{Code: 5})
		return nil
	})
	if err := s.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	status := mustStatus(t, s, id)
	if status.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || status.GetExitCode() != 5 || status.GetStartedAt() == 0 ||
		status.GetStartedAt() > status.GetFinishedAt() {
		t.Errorf("status %v", status)
	}
}

func TestStopAsksThenKills(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	sandbox := mustRun(t, s, podConfig("web"))

	polite := mustStart(t, s, sandbox, "polite")
	if err := s.StopContainer(t.Context(), polite, time.Minute); err != nil {
		t.Fatal(err)
	}
	if status := mustStatus(t, s, polite); status.GetExitCode() != 128+int32(syscall.SIGTERM) {
		t.Errorf("polite: %v", status)
	}

	stubborn := mustStart(t, s, sandbox, "stubborn")
	process := n.monitor.process(stubborn)
	process.stubborn = true
	if err := s.StopContainer(t.Context(), stubborn, 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if want := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}; !slices.Equal(process.signals, want) {
		t.Errorf("signals %v, want %v", process.signals, want)
	}

	atOnce := mustStart(t, s, sandbox, "at-once")
	process = n.monitor.process(atOnce)
	if err := s.StopContainer(t.Context(), atOnce, 0); err != nil {
		t.Fatal(err)
	}
	if want := []syscall.Signal{syscall.SIGKILL}; !slices.Equal(process.signals, want) {
		t.Errorf("signals %v, want %v", process.signals, want)
	}
}

func TestASecondStopShortensTheFirst(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustStart(t, s, mustRun(t, s, podConfig("web")), "app")
	process := n.monitor.process(id)
	process.stubborn = true
	asked := make(chan struct{})
	n.on("signal", func(context.Context, string) error {
		select {
		case <-asked:
		default:
			close(asked)
		}
		return nil
	})
	first := make(chan error, 1)
	go func() { first <- s.StopContainer(t.Context(), id, time.Hour) }()
	<-asked
	impatient, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.StopContainer(impatient, id, 2*time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a longer stop: %v", err)
	}
	if err := s.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if want := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}; !slices.Equal(process.signals, want) {
		t.Errorf("signals %v, want %v", process.signals, want)
	}
}

func TestStopOfAContainerTheMonitorDoesNotKnow(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustStart(t, s, mustRun(t, s, podConfig("web")), "app")
	n.monitor.lose()
	if err := s.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if status := mustStatus(t, s, id); status.GetReason() != "Unknown" || status.GetExitCode() != 255 {
		t.Errorf("status %v", status)
	}
}

func TestCreatesJoin(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	sandbox := mustRun(t, s, podConfig("web"))
	var mounts atomic.Int32
	gate := make(chan struct{})
	n.on("mount", func(context.Context, string) error {
		mounts.Add(1)
		<-gate
		return nil
	})
	var wg sync.WaitGroup
	ids := make(chan string, 4)
	for range 4 {
		wg.Go(func() {
			id, err := s.CreateContainer(t.Context(), sandbox, containerConfig("app"), nil)
			if err != nil && !errdefs.IsAlreadyExists(err) {
				t.Error(err)
			}
			ids <- id
		})
	}
	eventually(t, "one mounts", func() bool { return mounts.Load() == 1 })
	close(gate)
	wg.Wait()
	close(ids)
	seen := map[string]bool{}
	for id := range ids {
		if id != "" {
			seen[id] = true
		}
	}
	if len(seen) != 1 || mounts.Load() != 1 {
		t.Errorf("%d containers, %d mounts", len(seen), mounts.Load())
	}
}

func TestStopOfASandboxEndsItsContainersAndWaitsForOnesBeingMade(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	sandbox := mustRun(t, s, podConfig("web"))
	running := mustStart(t, s, sandbox, "running")
	begun, gate := make(chan struct{}), make(chan struct{})
	n.on("mount", func(context.Context, string) error {
		close(begun)
		<-gate
		return nil
	})
	created := make(chan error, 1)
	go func() {
		_, err := s.CreateContainer(t.Context(), sandbox, containerConfig("late"), nil)
		created <- err
	}()
	<-begun
	removed := make(chan error, 1)
	go func() { removed <- s.RemovePodSandbox(t.Context(), sandbox) }()
	eventually(t, "the gate is closed", func() bool {
		sb, _ := s.sandboxes.get(sandbox)
		return sb.requireReady() != nil
	})
	close(gate)
	if err := <-created; err != nil {
		t.Errorf("the container being made: %v", err)
	}
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if _, err := s.ContainerStatus(t.Context(), running, false); !errdefs.IsNotFound(err) {
		t.Errorf("status of its container: %v", err)
	}
	n.assertEmpty()
}

func TestListsNeverWait(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	sandbox := mustRun(t, s, podConfig("web"))
	id := mustCreate(t, s, sandbox, "app")
	begun, gate := make(chan struct{}), make(chan struct{})
	n.on("start", func(context.Context, string) error {
		close(begun)
		<-gate
		return nil
	})
	started := make(chan error, 1)
	go func() { started <- s.StartContainer(t.Context(), id) }()
	<-begun
	go func() { _ = s.StopPodSandbox(t.Context(), sandbox) }()
	eventually(t, "the stop waits", func() bool {
		sb, _ := s.sandboxes.get(sandbox)
		return sb.requireReady() != nil
	})
	// All of these would hang if they took a lock that an operation holds.
	items, err := s.ListContainers(t.Context(), nil)
	if err != nil || len(items) != 1 {
		t.Errorf("%v, %v", items, err)
	}
	if pods, err := s.ListPodSandbox(t.Context(), nil); err != nil || len(pods) != 1 {
		t.Errorf("%v, %v", pods, err)
	}
	mustStatus(t, s, id)
	if _, err := s.PodSandboxStatus(t.Context(), sandbox, true); err != nil {
		t.Error(err)
	}
	close(gate)
	if err := <-started; err != nil {
		t.Error(err)
	}
}

func TestListContainersFilters(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	podA, podB := mustRun(t, s, podConfig("a")), mustRun(t, s, podConfig("b"))
	created, running := mustCreate(t, s, podA, "one"), mustStart(t, s, podA, "two")
	other := mustStart(t, s, podB, "one")
	n.monitor.exit(other, monitor.Exit{})
	state := func(v runtimeapi.ContainerState) *runtimeapi.ContainerStateValue {
		return &runtimeapi.ContainerStateValue{State: v}
	}
	for name, c := range map[string]struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		"nil":     {nil, []string{other, running, created}},
		"id":      {&runtimeapi.ContainerFilter{Id: created[:20]}, []string{created}},
		"sandbox": {&runtimeapi.ContainerFilter{PodSandboxId: podA}, []string{running, created}},
		"running": {&runtimeapi.ContainerFilter{State: state(runtimeapi.ContainerState_CONTAINER_RUNNING)}, []string{running}},
		"exited":  {&runtimeapi.ContainerFilter{State: state(runtimeapi.ContainerState_CONTAINER_EXITED)}, []string{other}},
		"label":   {&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"container": "one"}}, []string{other, created}},
		"all":     {&runtimeapi.ContainerFilter{PodSandboxId: podB, LabelSelector: map[string]string{"container": "two"}}, nil},
	} {
		items, err := s.ListContainers(t.Context(), c.filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, item := range items {
			got = append(got, item.GetId())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	if _, err := s.ContainerStatus(t.Context(), "", false); !errdefs.IsInvalidArgument(err) {
		t.Errorf("empty ID: %v", err)
	}
}

func TestUpdateResources(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	sandbox := mustRun(t, s, podConfig("web"))
	created, running := mustCreate(t, s, sandbox, "created"), mustStart(t, s, sandbox, "running")
	update := func(s *Service, id string, r *runtimeapi.LinuxContainerResources) error {
		return s.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
	}
	for _, id := range []string{created, running} {
		if err := update(s, id, &runtimeapi.LinuxContainerResources{CpuShares: 256, MemoryLimitInBytes: 64 << 20}); err != nil {
			t.Fatal(err)
		}
		if err := update(s, id, &runtimeapi.LinuxContainerResources{CpuQuota: 5000, CpuPeriod: 10000}); err != nil {
			t.Fatal(err)
		}
	}
	if len(n.monitor.updates) != 2 {
		t.Errorf("%d updates reached the monitor, want the running container's 2", len(n.monitor.updates))
	}
	last := n.monitor.updates[1]
	if *last.CPU.Shares != 256 || *last.CPU.Quota != 5000 || *last.Memory.Limit != 64<<20 {
		t.Errorf("last update %+v %+v", last.CPU, last.Memory)
	}
	n.on("update", boom)
	if err := update(s, running, &runtimeapi.LinuxContainerResources{CpuShares: 1024}); !errors.Is(err, errBoom) {
		t.Errorf("failing update: %v", err)
	}
	n.off("update")
	if err := update(s, running, &runtimeapi.LinuxContainerResources{CpuShares: -1}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad update: %v", err)
	}
	stop()
	s, _ = n.start()
	for _, id := range []string{created, running} {
		got := mustStatus(t, s, id).GetResources().GetLinux()
		if got.GetCpuShares() != 256 || got.GetCpuQuota() != 5000 || got.GetMemoryLimitInBytes() != 64<<20 {
			t.Errorf("resources after a restart: %v", got)
		}
		ociSpec, err := s.specs.Get(id)
		if err != nil || *ociSpec.Linux.Resources.CPU.Shares != 256 {
			t.Errorf("specification: %+v, %v", ociSpec.Linux.Resources, err)
		}
	}
	n.monitor.exit(running, monitor.Exit{})
	if err := update(s, running, &runtimeapi.LinuxContainerResources{CpuShares: 2}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("update of an exited container: %v", err)
	}
}

func TestReopenLog(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustCreate(t, s, mustRun(t, s, podConfig("web")), "app")
	if err := s.ReopenContainerLog(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("created: %v", err)
	}
	if err := s.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	reopened := false
	n.on("reopen", func(_ context.Context, got string) error { reopened = got == id; return nil })
	if err := s.ReopenContainerLog(t.Context(), id); err != nil || !reopened {
		t.Errorf("running: %v, reopened %t", err, reopened)
	}
	if err := s.ReopenContainerLog(t.Context(), "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}
}
