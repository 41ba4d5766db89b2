package runtimeservice

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cni"
)

func TestPodUpAndDown(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	config := podConfig("web")
	config.Hostname = "web-0"
	config.LogDirectory = filepath.Join(t.TempDir(), "logs")
	config.PortMappings = []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_UDP, HostPort: 5353, ContainerPort: 53, HostIp: "127.0.0.1"}}
	asked := proto.Clone(config).(*runtimeapi.PodSandboxConfig)
	id := mustRun(t, s, config)

	if !isID(id) {
		t.Errorf("ID is %q", id)
	}
	if n.namespaces.last.Hostname != "web-0" || !n.namespaces.last.Network || !n.namespaces.last.IPC || !n.namespaces.last.UTS {
		t.Errorf("namespaces asked for: %+v", n.namespaces.last)
	}
	want := cni.PortMapping{Protocol: "udp", HostIP: "127.0.0.1", HostPort: 5353, ContainerPort: 53}
	if pod := n.network.attached[id]; len(pod.PortMappings) != 1 || pod.PortMappings[0] != want || pod.NetNS == "" {
		t.Errorf("attached %+v", pod)
	}
	resp, err := s.PodSandboxStatus(t.Context(), id[:12], true)
	if err != nil {
		t.Fatal(err)
	}
	status := resp.GetStatus()
	switch {
	case status.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY,
		status.GetNetwork().GetIp() != "10.1.2.3",
		len(status.GetNetwork().GetAdditionalIps()) != 1,
		status.GetNetwork().GetAdditionalIps()[0].GetIp() != "fd00::3",
		status.GetCreatedAt() <= 0,
		!proto.Equal(status.GetMetadata(), asked.GetMetadata()),
		status.GetAnnotations()["note"] != "kept":
		t.Errorf("status %v", status)
	}
	if !strings.Contains(resp.GetInfo()["info"], `"cniResult":{"cniVersion":"1.1.0"}`) {
		t.Errorf("info %v", resp.GetInfo())
	}
	if _, err := os.Stat(config.GetLogDirectory()); err != nil {
		t.Error(err)
	}

	for range 2 {
		if err := s.StopPodSandbox(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	resp, err = s.PodSandboxStatus(t.Context(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || resp.GetStatus().GetNetwork().GetIp() != "" {
		t.Errorf("status after stop %v", resp.GetStatus())
	}
	for range 2 {
		if err := s.RemovePodSandbox(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.PodSandboxStatus(t.Context(), id, false); !errdefs.IsNotFound(err) {
		t.Errorf("status after remove: %v", err)
	}
	if err := s.StopPodSandbox(t.Context(), id); err != nil {
		t.Errorf("stop after remove: %v", err)
	}
	if len(n.network.released) != 1 {
		t.Errorf("released %v", n.network.released)
	}
	n.assertEmpty()
}

func TestNamespaceModes(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	config := podConfig("host")
	config.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE,
	}
	mustRun(t, s, config)
	if r := n.namespaces.last; r.Network || r.IPC || r.UTS || r.Hostname != "" {
		t.Errorf("a pod of the node asked for %+v", r)
	}
	if n.network.count() != 0 || n.mounts.count() != 0 || n.monitor.count() != 0 {
		t.Error("a pod of the node has a network, a shm or an init of its own")
	}

	config = podConfig("shared")
	config.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD}
	id := mustRun(t, s, config)
	if n.monitor.process(id) == nil {
		t.Error("no init")
	}
	if n.namespaces.last.Hostname != "shared" {
		t.Errorf("host name %q, want the pod's name", n.namespaces.last.Hostname)
	}
	sb, _ := s.sandboxes.get(id)
	if pin := sb.rec.Load().Namespaces["pid"]; pin == "" {
		t.Error("PID namespace is not pinned")
	}
	if err := s.RemovePodSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if n.monitor.count() != 0 {
		t.Error("init is left")
	}
}

func TestFailedRunIsUndone(t *testing.T) {
	for _, step := range []string{"namespaces", "shm", "attach", "pod init", "pin"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			s, _ := n.start()
			n.on(step, boom)
			config := podConfig("web")
			config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
			config.LogDirectory = filepath.Join(t.TempDir(), "logs")
			if _, err := s.RunPodSandbox(t.Context(), config, ""); !errors.Is(err, errBoom) {
				t.Fatalf("error is %v", err)
			}
			n.assertEmpty()
			if _, err := os.Stat(config.GetLogDirectory()); !os.IsNotExist(err) {
				t.Errorf("log directory: %v", err)
			}
			n.off(step)
			mustRun(t, s, config)
		})
	}
}

func TestUndoThatFailsIsTriedAgain(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	n.on("attach", boom)
	n.on("remove namespaces", boom)
	if _, err := s.RunPodSandbox(t.Context(), podConfig("web"), ""); !errors.Is(err, errBoom) {
		t.Fatalf("error is %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(n.root, "sandboxes"))
	if err != nil || len(entries) != 1 {
		t.Errorf("what could not be undone has no record: %v, %v", entries, err)
	}
	stop()
	n.off("remove namespaces")
	n.start()
	eventually(t, "the record is gone", func() bool {
		entries, err := os.ReadDir(filepath.Join(n.root, "sandboxes"))
		return err == nil && len(entries) == 0
	})
	n.assertEmpty()
}

func TestRunsOfOnePodJoin(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	var adds atomic.Int32
	begun, gate := make(chan struct{}), make(chan struct{})
	n.on("attach", func(context.Context, string) error {
		adds.Add(1)
		close(begun)
		<-gate
		return nil
	})
	impatient, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := s.RunPodSandbox(impatient, podConfig("web"), "")
		first <- err
	}()
	<-begun
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller who left got %v", err)
	}
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		ids = map[string]bool{}
	)
	for range 4 {
		wg.Go(func() {
			id, err := s.RunPodSandbox(t.Context(), podConfig("web"), "")
			if err != nil && !errdefs.IsAlreadyExists(err) {
				t.Errorf("joined call: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				ids[id] = true
			}
		})
	}
	close(gate)
	wg.Wait()
	if len(ids) != 1 || adds.Load() != 1 {
		t.Errorf("%d IDs, %d ADDs, want one each", len(ids), adds.Load())
	}
	if _, err := s.RunPodSandbox(t.Context(), podConfig("web"), ""); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a call after the answer was given: %v", err)
	}
}

func TestResultOfACallerWhoLeftIsForTheNext(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	begun, gate := make(chan struct{}), make(chan struct{})
	n.on("attach", func(context.Context, string) error {
		close(begun)
		<-gate
		return nil
	})
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-begun
		leave()
	}()
	if _, err := s.RunPodSandbox(ctx, podConfig("web"), ""); !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	close(gate)
	eventually(t, "the sandbox is ready", func() bool { return len(s.sandboxes.all()) == 1 })
	n.off("attach")
	id := mustRun(t, s, podConfig("web"))
	if id != s.sandboxes.all()[0].id {
		t.Error("the retry made another sandbox")
	}
	if _, err := s.RunPodSandbox(t.Context(), podConfig("web"), ""); !errdefs.IsAlreadyExists(err) {
		t.Errorf("third call: %v", err)
	}
	if err := s.RemovePodSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	mustRun(t, s, podConfig("web"))
}

func TestRunRefuses(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	for name, c := range map[string]struct {
		change  func(*runtimeapi.PodSandboxConfig)
		handler string
		want    error
		says    string
	}{
		"handler":       {func(*runtimeapi.PodSandboxConfig) {}, "kata", errdefs.ErrInvalidArgument, `"kata"`},
		"metadata":      {func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil }, "", errdefs.ErrInvalidArgument, "config.metadata"},
		"name":          {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" }, "", errdefs.ErrInvalidArgument, "config.metadata.name"},
		"windows":       {func(c *runtimeapi.PodSandboxConfig) { c.Windows = &runtimeapi.WindowsPodSandboxConfig{} }, "", errdefs.ErrInvalidArgument, "config.windows"},
		"log directory": {func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "logs" }, "", errdefs.ErrInvalidArgument, "log_directory"},
		"group": {func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
		}, "", errdefs.ErrInvalidArgument, "run_as_group"},
		"target": {func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		}, "", errdefs.ErrInvalidArgument, "pid"},
		"unknown mode": {func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Ipc = 9 }, "", errdefs.ErrInvalidArgument, "ipc"},
		"sysctl":       {func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"kernel.core_pattern": "x"} }, "", errdefs.ErrInvalidArgument, "kernel.core_pattern"},
		"sysctl of the node's network": {func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
		}, "", errdefs.ErrInvalidArgument, "net.ipv4.ip_forward"},
		"port": {func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70000, ContainerPort: 1}}
		}, "", errdefs.ErrInvalidArgument, "port_mappings[0].host_port"},
		"container port": {func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80}} }, "", errdefs.ErrInvalidArgument, "container_port"},
		"cgroup parent":  {func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/a/../../b" }, "", errdefs.ErrInvalidArgument, "cgroup_parent"},
	} {
		t.Run(name, func(t *testing.T) {
			config := podConfig("web")
			c.change(config)
			_, err := s.RunPodSandbox(t.Context(), config, c.handler)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want %v with %q", err, c.want, c.says)
			}
			n.assertEmpty()
		})
	}
}

func TestStopWithoutNetworkPluginsSucceeds(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustRun(t, s, podConfig("web"))
	n.on("detach", boom)
	if err := s.StopPodSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := s.RemovePodSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if len(n.network.debts) != 1 {
		t.Errorf("debts %v", n.network.debts)
	}
	n.assertEmpty()
}

func TestFailedStopIsTriedAgain(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustRun(t, s, podConfig("web"))
	n.on("remove namespaces", boom)
	if err := s.StopPodSandbox(t.Context(), id); !errors.Is(err, errBoom) {
		t.Fatalf("error is %v", err)
	}
	if _, err := s.CreateContainer(t.Context(), id, containerConfig("late"), nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a half-stopped sandbox takes a container: %v", err)
	}
	n.off("remove namespaces")
	if err := s.StopPodSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if n.namespaces.count() != 0 {
		t.Error("namespaces are left")
	}
}

func TestEndOfThePodsInitEndsReadiness(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	config := podConfig("web")
	config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	id := mustRun(t, s, config)
	_ = n.monitor.Signal(t.Context(), id, 9, true)
	resp, err := s.PodSandboxStatus(t.Context(), id, false)
	if err != nil || resp.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("status %v, %v", resp, err)
	}
	if err := s.RemovePodSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	n.assertEmpty()
}

func TestListPodSandboxFilters(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	a, b := mustRun(t, s, podConfig("a")), mustRun(t, s, podConfig("b"))
	if err := s.StopPodSandbox(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	state := func(v runtimeapi.PodSandboxState) *runtimeapi.PodSandboxStateValue {
		return &runtimeapi.PodSandboxStateValue{State: v}
	}
	for name, c := range map[string]struct {
		filter *runtimeapi.PodSandboxFilter
		want   []string
	}{
		"nil":       {nil, []string{b, a}}, // the newest first
		"id":        {&runtimeapi.PodSandboxFilter{Id: a}, []string{a}},
		"prefix":    {&runtimeapi.PodSandboxFilter{Id: b[:16]}, []string{b}},
		"ready":     {&runtimeapi.PodSandboxFilter{State: state(runtimeapi.PodSandboxState_SANDBOX_READY)}, []string{a}},
		"not ready": {&runtimeapi.PodSandboxFilter{State: state(runtimeapi.PodSandboxState_SANDBOX_NOTREADY)}, []string{b}},
		"label":     {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "a"}}, []string{a}},
		"both":      {&runtimeapi.PodSandboxFilter{Id: b, LabelSelector: map[string]string{"app": "a"}}, nil},
	} {
		items, err := s.ListPodSandbox(t.Context(), c.filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, item := range items {
			got = append(got, item.GetId())
		}
		if strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
