package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cni"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/record"
)

func podState(t *testing.T, s *Service, id string) runtimeapi.PodSandboxState {
	t.Helper()
	resp, err := s.PodSandboxStatus(t.Context(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetStatus().GetState()
}

func TestRestartKeepsWhatRuns(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	config := podConfig("web")
	config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	pod := mustRun(t, s, config)
	created, running, ended := mustCreate(t, s, pod, "created"), mustStart(t, s, pod, "running"), mustStart(t, s, pod, "ended")
	n.monitor.exit(ended, monitor.Exit{Code: 9})
	before := mustStatus(t, s, running)
	eventually(t, "the ID is noted as known", func() bool {
		sb, _ := s.sandboxes.get(pod)
		return sb.rec.Load().Delivered
	})
	stop()

	s, _ = n.start()
	if podState(t, s, pod) != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Error("sandbox is not ready")
	}
	resp, err := s.PodSandboxStatus(t.Context(), pod, false)
	if err != nil || resp.GetStatus().GetNetwork().GetIp() != "10.1.2.3" || len(resp.GetContainersStatuses()) != 3 {
		t.Errorf("sandbox after the restart: %v, %v", resp, err)
	}
	if after := mustStatus(t, s, running); after.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING ||
		after.GetStartedAt() != before.GetStartedAt() || after.GetUser().GetLinux().GetUid() != 7 || after.GetLabels()["container"] != "running" {
		t.Errorf("running container is %v, was %v", after, before)
	}
	if after := mustStatus(t, s, ended); after.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || after.GetExitCode() != 9 {
		t.Errorf("ended container is %v", after)
	}
	if err := s.StartContainer(t.Context(), created); err != nil {
		t.Errorf("start of what was created before: %v", err)
	}
	if _, err := s.RunPodSandbox(t.Context(), config, ""); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a pod whose ID is known: %v", err)
	}
	if err := s.RemovePodSandbox(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.assertEmpty()
}

func TestRestartLearnsWhatEndedMeanwhile(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	pod := mustRun(t, s, podConfig("web"))
	told, known, lost := mustStart(t, s, pod, "told"), mustStart(t, s, pod, "known"), mustStart(t, s, pod, "lost")
	unrecorded := mustCreate(t, s, pod, "unrecorded")
	stop()
	n.monitor.setOnExit(nil)
	at := time.Now()
	n.monitor.exit(told, monitor.Exit{Code: 1, ExitedAt: at})
	n.monitor.exit(known, monitor.Exit{Code: 137, OOMKilled: true, ExitedAt: at})
	if err := n.monitor.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	n.monitor.run(unrecorded) // killed between the start and its record
	n.on("connect", func(context.Context, string) error {
		n.monitor.mu.Lock()
		tell, exit := n.monitor.onExit, *n.monitor.running[told].Exit
		n.monitor.mu.Unlock()
		tell(exit)
		return nil
	})

	s, _ = n.start()
	for id, want := range map[string]struct {
		state  runtimeapi.ContainerState
		code   int32
		reason string
	}{
		told:       {runtimeapi.ContainerState_CONTAINER_EXITED, 1, "Error"},
		known:      {runtimeapi.ContainerState_CONTAINER_EXITED, 137, "OOMKilled"},
		lost:       {runtimeapi.ContainerState_CONTAINER_EXITED, 255, "Unknown"},
		unrecorded: {runtimeapi.ContainerState_CONTAINER_RUNNING, 0, ""},
	} {
		status := mustStatus(t, s, id)
		if status.GetState() != want.state || status.GetExitCode() != want.code || status.GetReason() != want.reason {
			t.Errorf("%s: %v, want %+v", status.GetMetadata().GetName(), status, want)
		}
	}
	if got := mustStatus(t, s, known).GetFinishedAt(); got != at.UnixNano() {
		t.Errorf("finished at %d, want the monitor's %d", got, at.UnixNano())
	}
	eventually(t, "the monitor forgets what ended", func() bool { return n.monitor.count() == 1 })
}

func TestReboot(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	pod, down := mustRun(t, s, podConfig("web")), mustRun(t, s, podConfig("down"))
	created, running, ended := mustCreate(t, s, pod, "created"), mustStart(t, s, pod, "running"), mustStart(t, s, pod, "ended")
	n.monitor.exit(ended, monitor.Exit{Code: 9})
	if err := s.StopPodSandbox(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	stop()
	n.reboot()

	s, _ = n.start()
	for _, id := range []string{pod, down} {
		if podState(t, s, id) != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("%s is ready", id)
		}
	}
	for _, id := range []string{created, running} {
		status := mustStatus(t, s, id)
		if status.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || status.GetExitCode() != 255 ||
			status.GetReason() != "Unknown" || status.GetMessage() != "the node was rebooted" || status.GetFinishedAt() == 0 {
			t.Errorf("after the reboot: %v", status)
		}
	}
	if status := mustStatus(t, s, ended); status.GetExitCode() != 9 {
		t.Errorf("ended before the reboot: %v", status)
	}
	eventually(t, "the network is detached", func() bool { return n.network.count() == 0 })
	if err := s.StartContainer(t.Context(), created); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start after the reboot: %v", err)
	}
	for _, id := range []string{pod, down} {
		if err := s.RemovePodSandbox(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	n.assertEmpty()
}

// TestVanishedNamespaces is a node that is a container and was restarted: the
// boot ID is the same.
func TestVanishedNamespaces(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	pod := mustRun(t, s, podConfig("web"))
	stop()
	n.namespaces.reboot()
	s, _ = n.start()
	if podState(t, s, pod) != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Error("ready without namespaces")
	}
}

// TestKilledAtEveryStep stops the work of an operation at each of its steps for
// good, as a kill -9 does, starts another daemon and looks what is left.
func TestKilledAtEveryStep(t *testing.T) {
	steps := []string{"namespaces", "shm", "attach", "pod init", "pin", "mount", "start", "remove rootfs", "remove namespaces", "delete"}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			s := n.startToBeKilled()
			config := podConfig("web")
			config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
			reached := make(chan struct{})
			hang := func(context.Context, string) error {
				close(reached)
				select {} // the dead daemon does nothing more, not even undo
			}
			go func() {
				ctx := context.Background()
				switch step {
				case "mount", "start", "remove rootfs", "remove namespaces", "delete":
					pod, err := s.RunPodSandbox(ctx, config, "")
					if err != nil {
						t.Error(err)
						return
					}
					<-s.background.ended() // a dead daemon notes nothing any more either
					if step == "mount" {
						n.on(step, hang)
					}
					id, _ := s.CreateContainer(ctx, pod, containerConfig("app"), nil)
					if step == "start" {
						n.on(step, hang)
					}
					_ = s.StartContainer(ctx, id)
					n.on(step, hang)
					_ = s.RemovePodSandbox(ctx, pod)
				default:
					n.on(step, hang)
					_, _ = s.RunPodSandbox(ctx, config, "")
				}
			}()
			<-reached
			n.off(step)

			next, _ := n.start()
			pods, err := next.ListPodSandbox(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, pod := range pods {
				if err := next.RemovePodSandbox(t.Context(), pod.GetId()); err != nil {
					t.Error(err)
				}
			}
			eventually(t, "all is gone", func() bool {
				left, err := os.ReadDir(filepath.Join(n.root, "sandboxes"))
				more, err2 := os.ReadDir(filepath.Join(n.root, "containers"))
				return err == nil && err2 == nil && len(left)+len(more) == 0
			})
			n.assertEmpty()
		})
	}
}

func TestOrphansAreRemoved(t *testing.T) {
	n := newNode(t)
	orphan := func() string { return newID() }
	pinned, mounted, written, process := orphan(), orphan(), orphan(), orphan()
	dir := filepath.Join(n.state, "sandboxes", pinned)
	if _, err := n.namespaces.Create(t.Context(), namespaces.Request{Dir: dir, IPC: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(n.state, "containers", mounted, "rootfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.rootfs.MountRootfs(t.Context(), written, testImage, "", "", ""); err != nil {
		t.Fatal(err)
	}
	n.monitor.run(process)
	notOurs := filepath.Join(n.state, "sandboxes", "notes.txt")
	if err := os.WriteFile(notOurs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	eventually(t, "the orphans are gone", func() bool {
		_, err := os.Stat(dir)
		return n.namespaces.count()+n.rootfs.count()+n.monitor.count() == 0 && errors.Is(err, os.ErrNotExist)
	})
	if err := os.Remove(notOurs); err != nil {
		t.Errorf("what is not ours: %v", err)
	}
	eventually(t, "mount point is gone", func() bool {
		_, err := os.Stat(filepath.Join(n.state, "containers", mounted))
		return errors.Is(err, os.ErrNotExist)
	})
	n.assertEmpty()
}

func TestUndeliveredSandboxIsGivenAfterARestart(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	id := mustRun(t, s, podConfig("web"))
	stop()
	// As if the daemon had been killed before the answer was sent.
	store, err := record.Open[record.Sandbox](filepath.Join(n.root, "sandboxes"), n.log)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := store.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	rec.Delivered = false
	if err := store.Put(id, rec); err != nil {
		t.Fatal(err)
	}
	s, _ = n.start()
	if got := mustRun(t, s, podConfig("web")); got != id {
		t.Errorf("got %s, want %s", got, id)
	}
}

// TestEndThatTheDiskDoesNotTake fills the disk for the record of an exit: the
// monitor must keep it until it is written.
func TestEndThatTheDiskDoesNotTake(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	id := mustStart(t, s, mustRun(t, s, podConfig("web")), "app")
	path := filepath.Join(n.root, "containers", id+".json")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.Symlink("/dev/full", path)); err != nil {
		t.Fatal(err)
	}
	n.monitor.exit(id, monitor.Exit{Code: 42})
	if status := mustStatus(t, s, id); status.GetExitCode() != 42 {
		t.Errorf("status %v", status)
	}
	stop()
	if n.monitor.process(id) == nil {
		t.Fatal("the monitor was told to forget an exit that is not on disk")
	}
	if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, before, 0o600)); err != nil {
		t.Fatal(err)
	}
	s, _ = n.start()
	if status := mustStatus(t, s, id); status.GetExitCode() != 42 {
		t.Errorf("after a restart: %v", status)
	}
	eventually(t, "the monitor forgets it", func() bool { return n.monitor.process(id) == nil })
}

func TestSixtyPodsAreTakenUp(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	const pods = 60
	for i := range pods {
		mustStart(t, s, mustRun(t, s, podConfig(fmt.Sprint("pod", i))), "app")
	}
	stop()
	began := time.Now()
	s, _ = n.start()
	t.Logf("%d pods taken up in %s", pods, time.Since(began))
	running, err := s.ListContainers(t.Context(), &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	})
	if err != nil || len(running) != pods {
		t.Errorf("%d containers run, %v", len(running), err)
	}
}

func TestMonitorThatDoesNotAnswer(t *testing.T) {
	n := newNode(t)
	n.on("connect", func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	})
	s := n.open()
	s.opts.ConnectTimeout = time.Millisecond
	if err := s.Start(t.Context()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "has not answered for 1ms") {
		t.Errorf("error is %v", err)
	}
}

func TestNetworksOfUnknownPodsAreReleased(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	known, err := s.RunPodSandbox(t.Context(), podConfig("known"), "")
	if err != nil {
		t.Fatal(err)
	}
	stop()
	unknown := newID()
	if _, err := n.network.Attach(t.Context(), cni.Pod{ID: unknown}); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.network.mu.Lock()
	defer n.network.mu.Unlock()
	if !slices.Contains(n.network.released, unknown) {
		t.Errorf("released %v, not %s, which has no sandbox", n.network.released, unknown)
	}
	if slices.Contains(n.network.released, known) {
		t.Errorf("released %s, which has a sandbox", known)
	}
}
