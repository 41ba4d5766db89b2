package runtimeservice

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	nriapi "github.com/containerd/nri/pkg/api"

	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/nri"
	"github.com/berth-cri/berth/runtimeservice/nri/nritest"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// silenceLibrary sets the library's logger, which all tests share, once.
var silenceLibrary = sync.OnceFunc(func() { nri.SetLogger(slog.New(slog.DiscardHandler)) })

// startWithPlugins starts a Service to whose socket plugins can connect.
func startWithPlugins(t *testing.T, n *node) (*Service, string) {
	t.Helper()
	silenceLibrary()
	dir := t.TempDir()
	plugins := nri.New(nri.Options{
		Socket: filepath.Join(dir, "nri.sock"), PluginDir: dir, ConfigDir: dir,
		RegistrationTimeout: 20 * time.Second, RequestTimeout: 20 * time.Second,
	})
	n.plugins = plugins
	s, _ := n.start()
	if err := plugins.Start(s.PluginRuntime()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plugins.Stop)
	return s, filepath.Join(dir, "nri.sock")
}

func connectPlugin(t *testing.T, socket string, p *nritest.Plugin) {
	t.Helper()
	p.Name = "test"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := p.Connect(ctx, socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
}

// A plugin that waits for an update of the very container whose event it handles gets
// it: no lock is held for an event that an update needs.
func TestPluginUpdatesWithinAnEvent(t *testing.T) {
	n := newNode(t)
	s, socket := startWithPlugins(t, n)
	plugin := &nritest.Plugin{}
	plugin.On = func(_ context.Context, e nritest.Event) error {
		switch e.Name {
		case "StartContainer", "PostStartContainer":
		default:
			return nil
		}
		update := &nriapi.ContainerUpdate{ContainerId: e.Container.Id}
		update.SetLinuxCPUShares(uint64(len(e.Name)))
		failed, err := plugin.Ask(update)
		if len(failed) > 0 {
			err = errors.New("the update failed")
		}
		return err
	}
	connectPlugin(t, socket, plugin)
	pod := mustRun(t, s, podConfig("web"))
	id := mustStart(t, s, pod, "c")
	if got := mustStatus(t, s, id).GetResources().GetLinux().GetCpuShares(); got != int64(len("PostStartContainer")) {
		t.Errorf("CPU shares are %d", got)
	}
	ociSpec, err := s.specs.Get(id)
	if err != nil || *ociSpec.Linux.Resources.CPU.Shares != uint64(len("PostStartContainer")) {
		t.Errorf("the specification on disk: %v, %v", ociSpec.Linux.Resources, err)
	}
}

// Steps after CreateContainer that fail are told to plugins as the container's end.
func TestUndoneCreationIsToldToPlugins(t *testing.T) {
	n := newNode(t)
	s, socket := startWithPlugins(t, n)
	plugin := &nritest.Plugin{Create: func(*nriapi.PodSandbox, *nriapi.Container) (*nriapi.ContainerAdjustment, []*nriapi.ContainerUpdate) {
		a := &nriapi.ContainerAdjustment{}
		a.SetLinuxRDTClass("none such")
		return a, nil
	}}
	connectPlugin(t, socket, plugin)
	pod := mustRun(t, s, podConfig("web"))
	if _, err := s.CreateContainer(t.Context(), pod, containerConfig("c"), podConfig("web")); err == nil {
		t.Fatal("a container with an RDT class that is not there was created")
	}
	want := []string{"RunPodSandbox", "CreateContainer", "StopContainer", "RemoveContainer"}
	if got := plugin.Names(pod); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if err := s.RemovePodSandbox(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.assertEmpty()
}

// The end of a process that comes before its start was answered is told after it.
func TestPluginsHearOfAnEndAfterTheStart(t *testing.T) {
	n := newNode(t)
	s, socket := startWithPlugins(t, n)
	plugin := &nritest.Plugin{On: func(_ context.Context, e nritest.Event) error {
		if e.Name == "StartContainer" {
			return nil
		}
		if e.Name == "PostStartContainer" {
			go n.monitor.exit(e.Container.Id, monitor.Exit{ID: e.Container.Id, Code: 3, ExitedAt: time.Now()})
			time.Sleep(20 * time.Millisecond) // the end has every chance to overtake
		}
		return nil
	}}
	connectPlugin(t, socket, plugin)
	pod := mustRun(t, s, podConfig("web"))
	id := mustStart(t, s, pod, "c")
	eventually(t, "the end is told", func() bool { return slices.Contains(plugin.Names(id), "StopContainer") })
	want := []string{"CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer", "StopContainer"}
	if got := plugin.Names(id); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if e := plugin.Last("StopContainer"); e.Container.ExitCode != 3 || e.Container.State != nriapi.ContainerState_CONTAINER_STOPPED {
		t.Errorf("told of the end: %v", e.Container)
	}
}

// An eviction kills a container; one that is not there is no error.
func TestEviction(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustStart(t, s, mustRun(t, s, podConfig("web")), "c")
	s.plugins.evict(t.Context(), []*nriapi.ContainerEviction{{ContainerId: "nobody"}, {ContainerId: id, Reason: "test"}})
	if c, _ := s.containers.get(id); c.state() != record.Exited {
		t.Errorf("the container is %s", c.state())
	}
}
