package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	nriapi "github.com/containerd/nri/pkg/api"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/nri/nritest"
)

// connect connects a plugin to the daemon for one test.
func (d *daemon) connect(t *testing.T, p *nritest.Plugin) *nritest.Plugin {
	t.Helper()
	if p.Name == "" {
		p.Name = "test"
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Connect(ctx, filepath.Join(d.State, "nri.sock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func wantNames(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s are %v, want %v", what, got, want)
	}
}

func TestNRIEvents(t *testing.T) {
	checkLeaks(t, shared)
	plugin := shared.connect(t, &nritest.Plugin{})
	p := shared.runPod(t)
	c := p.run(env("COLOUR", "blue"), resources(func(r *runtimeapi.LinuxContainerResources) { r.CpuShares = 512 }))
	err := shared.runtime.UpdateContainerResources(t.Context(), c.id, &runtimeapi.ContainerResources{
		Linux: &runtimeapi.LinuxContainerResources{CpuShares: 256},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = shared.runtime.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 1000},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.stop(0)
	if err := shared.runtime.RemoveContainer(t.Context(), c.id); err != nil {
		t.Fatal(err)
	}
	p.remove()
	wantNames(t, "events of the pod", plugin.Names(p.id),
		"RunPodSandbox", "CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer",
		"UpdateContainer", "PostUpdateContainer", "UpdatePodSandbox", "PostUpdatePodSandbox", "StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox")

	pod := plugin.Last("RunPodSandbox").Pod
	meta := p.config.Metadata
	same(t, "pod", [4]string{pod.Id, pod.Name, pod.Namespace, pod.Uid}, [4]string{p.id, meta.Name, meta.Namespace, meta.Uid})
	same(t, "label", pod.Labels["test"], "yes")
	same(t, "cgroup parent", pod.Linux.CgroupParent, p.config.Linux.CgroupParent)
	if len(pod.Ips) != 2 || len(pod.Linux.Namespaces) != 3 {
		t.Errorf("the pod has the addresses %v and the namespaces %v", pod.Ips, pod.Linux.Namespaces)
	}

	same(t, "CPU shares of the pod after its update", plugin.Last("PostUpdatePodSandbox").Pod.Linux.PodResources.Cpu.Shares.GetValue(), 1000)

	created := plugin.Last("CreateContainer").Container
	same(t, "container", [3]string{created.Id, created.PodSandboxId, created.Name}, [3]string{c.id, p.id, c.conf.Metadata.Name})
	same(t, "command", strings.Join(created.Args, " "), "sleep 3600")
	same(t, "CPU shares", created.Linux.Resources.Cpu.Shares.GetValue(), 512)
	same(t, "seccomp profile", created.Linux.SeccompProfile.ProfileType, nriapi.SecurityProfile_RUNTIME_DEFAULT)
	same(t, "image", created.Image.Name, busybox)
	if !slices.Contains(created.Env, "COLOUR=blue") || len(created.Mounts) < 5 || created.CreatedAt == 0 {
		t.Errorf("environment %v, mounts %v, created at %d", created.Env, created.Mounts, created.CreatedAt)
	}
	if created.Linux.CgroupsPath == "" || len(created.Linux.Namespaces) < 5 || len(created.Linux.SeccompPolicy.GetSyscalls()) == 0 {
		t.Errorf("cgroup %q, namespaces %v, %d rules for system calls", created.Linux.CgroupsPath, created.Linux.Namespaces, len(created.Linux.SeccompPolicy.GetSyscalls()))
	}
	started := plugin.Last("PostStartContainer").Container
	if started.Pid == 0 || started.StartedAt == 0 || started.State != nriapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the started container has PID %d, start %d, state %s", started.Pid, started.StartedAt, started.State)
	}
	same(t, "CPU shares after the update", plugin.Last("PostUpdateContainer").Container.Linux.Resources.Cpu.Shares.GetValue(), 256)
	ended := plugin.Last("StopContainer").Container
	if ended.ExitCode != 137 || ended.FinishedAt == 0 || ended.StatusReason != "Error" || ended.State != nriapi.ContainerState_CONTAINER_STOPPED {
		t.Errorf("the ended container has exit code %d, end %d, reason %q, state %s", ended.ExitCode, ended.FinishedAt, ended.StatusReason, ended.State)
	}
}

// A container that ends by itself, one that cannot be started and one that never is
// all have their StopContainer once.
func TestNRIStopIsToldOnce(t *testing.T) {
	checkLeaks(t, shared)
	plugin := shared.connect(t, &nritest.Plugin{})
	p := shared.runPod(t, hostNetwork)
	ends := p.run(shell("exit 3"))
	ends.wait()
	eventually(t, "its end is told", func() bool { return slices.Contains(plugin.Names(ends.id), "StopContainer") })
	same(t, "exit code", plugin.Last("StopContainer").Container.ExitCode, 3)
	bad := p.create(command("/no/such/program"))
	if err := shared.runtime.StartContainer(t.Context(), bad.id); err == nil {
		t.Error("a program that is not there was started")
	}
	never := p.create()
	ends.stop(0)
	p.remove()
	wantNames(t, "events of the one that ends", plugin.Names(ends.id),
		"CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer", "StopContainer", "RemoveContainer")
	wantNames(t, "events of the one that cannot start", plugin.Names(bad.id),
		"CreateContainer", "PostCreateContainer", "StartContainer", "StopContainer", "RemoveContainer")
	wantNames(t, "events of the one that is not started", plugin.Names(never.id),
		"CreateContainer", "PostCreateContainer", "StopContainer", "RemoveContainer")
}

func TestNRIPluginFails(t *testing.T) {
	checkLeaks(t, shared)
	var failing sync.Map // the names of events
	plugin := &nritest.Plugin{On: func(_ context.Context, e nritest.Event) error {
		if _, fails := failing.Load(e.Name); fails {
			return errors.New("not on my node")
		}
		return nil
	}}
	shared.connect(t, plugin)

	failing.Store("RunPodSandbox", true)
	config := podConfig(t)
	_, err := shared.runtime.RunPodSandbox(t.Context(), config, "")
	wantCode(t, "a pod that a plugin refuses", err, codes.FailedPrecondition)
	if err == nil || !strings.Contains(err.Error(), "not on my node") {
		t.Errorf("the error does not say why: %v", err)
	}
	wantNames(t, "events of the refused pod", plugin.Names(""), "Synchronize", "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox")
	failing.Delete("RunPodSandbox")
	removeCgroups(t, config.Linux.CgroupParent)

	p := shared.runPod(t, hostNetwork)
	failing.Store("CreateContainer", true)
	_, err = p.tryCreate()
	wantCode(t, "a container that a plugin refuses", err, codes.FailedPrecondition)
	failing.Delete("CreateContainer")
	same(t, "containers", p.containers(), 0)

	failing.Store("StartContainer", true)
	c := p.create()
	wantCode(t, "a start that a plugin refuses", shared.runtime.StartContainer(t.Context(), c.id), codes.FailedPrecondition)
	same(t, "state", c.status().State, runtimeapi.ContainerState_CONTAINER_EXITED)
	failing.Delete("StartContainer")

	// What has happened, and what goes, goes on.
	for _, event := range []string{"PostCreateContainer", "PostStartContainer", "PostUpdateContainer", "StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"} {
		failing.Store(event, true)
	}
	c = p.run()
	err = shared.runtime.UpdateContainerResources(t.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 256}})
	if err != nil {
		t.Error(err)
	}
	failing.Store("UpdateContainer", true)
	err = shared.runtime.UpdateContainerResources(t.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 128}})
	wantCode(t, "an update that a plugin refuses", err, codes.FailedPrecondition)
	same(t, "CPU shares in the status", c.status().Resources.GetLinux().GetCpuShares(), 256)
	p.remove()
}

// A plugin that hangs is dropped when its time is over. Meanwhile lists are answered,
// and afterwards pods start as if it had never been there.
func TestNRIPluginHangs(t *testing.T) {
	d := ownDaemon(t, "nri:\n  requestTimeout: 5s\n")
	hung, release := make(chan struct{}, 1), make(chan struct{})
	defer close(release)
	plugin := d.connect(t, &nritest.Plugin{On: func(_ context.Context, e nritest.Event) error {
		if e.Name == "CreateContainer" {
			hung <- struct{}{}
			<-release
		}
		return nil
	}})
	p := d.runPod(t, hostNetwork)
	d.pull(t, busybox)
	created := make(chan error, 1)
	go func() {
		_, err := p.tryCreate()
		created <- err
	}()
	<-hung
	if _, err := d.runtime.ListContainers(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if _, err := d.runtime.PodSandboxStatus(t.Context(), p.id, false); err != nil {
		t.Error(err)
	}
	select {
	case err := <-created:
		t.Fatalf("the container was created before the plugin answered: %v", err)
	default:
	}
	if err := <-created; err != nil {
		t.Errorf("a plugin that hangs fails the request: %v", err)
	}
	select {
	case <-plugin.Closed():
	case <-time.After(patience):
		t.Error("the plugin was not dropped")
	}
	p.run()
}

// A plugin with the policy to fail requests fails the one it does not answer.
func TestNRIPluginThatMustAnswer(t *testing.T) {
	d := ownDaemon(t, "nri:\n  requestTimeout: 3s\n")
	release := make(chan struct{})
	defer close(release)
	d.connect(t, &nritest.Plugin{
		Policy: &nriapi.FailurePolicy{FailRequest: true},
		On: func(_ context.Context, e nritest.Event) error {
			if e.Name == "CreateContainer" {
				<-release
			}
			return nil
		},
	})
	p := d.runPod(t, hostNetwork)
	d.pull(t, busybox)
	_, err := p.tryCreate()
	wantCode(t, "a container that the plugin says nothing of", err, codes.DeadlineExceeded)
	same(t, "containers", p.containers(), 0)
	p.run()
}

func TestNRIPluginJoinsLate(t *testing.T) {
	checkLeaks(t, shared)
	p := shared.runPod(t)
	running, created, ended := p.run(), p.create(), p.run(shell("true"))
	ended.wait()
	var pods []*nriapi.PodSandbox
	containers := map[string]*nriapi.Container{}
	plugin := shared.connect(t, &nritest.Plugin{
		Synced: func(ps []*nriapi.PodSandbox, cs []*nriapi.Container) []*nriapi.ContainerUpdate {
			pods = ps
			for _, c := range cs {
				containers[c.Id] = c
			}
			update := &nriapi.ContainerUpdate{ContainerId: running.id}
			update.SetLinuxCPUShares(333)
			return []*nriapi.ContainerUpdate{update}
		},
	})
	if len(pods) != 1 || pods[0].Id != p.id || len(pods[0].Ips) != 2 {
		t.Errorf("the plugin was told of the pods %v", pods)
	}
	if c := containers[ended.id]; c != nil {
		// Its end was not told yet, so it comes now.
		same(t, "state of the one that has ended", c.State, nriapi.ContainerState_CONTAINER_STOPPED)
		eventually(t, "its end is told", func() bool { return slices.Contains(plugin.Names(ended.id), "StopContainer") })
		delete(containers, ended.id)
	} else {
		wantNames(t, "events of the one that has ended", plugin.Names(ended.id))
	}
	same(t, "other containers", len(containers), 2)
	if c := containers[running.id]; c.GetState() != nriapi.ContainerState_CONTAINER_RUNNING || c.GetPid() == 0 || len(c.GetArgs()) == 0 {
		t.Errorf("the running container: %v", c)
	}
	same(t, "state of the other", containers[created.id].GetState(), nriapi.ContainerState_CONTAINER_CREATED)
	eventually(t, "the plugin's update holds", func() bool { return running.status().Resources.GetLinux().GetCpuShares() == 333 })
	created.start()
	wantNames(t, "events", plugin.Names(created.id), "StartContainer", "PostStartContainer")
}

// Containers that are created while a plugin joins reach it, each in one way.
func TestNRINothingFallsBetween(t *testing.T) {
	checkLeaks(t, shared)
	p := shared.runPod(t, hostNetwork)
	const containers = 24
	ids := make(chan string, containers)
	go func() {
		defer close(ids)
		for range containers {
			c, err := p.tryCreate()
			if err != nil {
				t.Error(err)
				return
			}
			ids <- c.id
		}
	}()
	first := <-ids
	synced := map[string]bool{}
	plugin := shared.connect(t, &nritest.Plugin{
		Synced: func(_ []*nriapi.PodSandbox, cs []*nriapi.Container) []*nriapi.ContainerUpdate {
			time.Sleep(50 * time.Millisecond)
			for _, c := range cs {
				synced[c.Id] = true
			}
			return nil
		},
	})
	all := []string{first}
	for id := range ids {
		all = append(all, id)
	}
	same(t, "containers", len(all), containers)
	for _, id := range all {
		told := slices.Contains(plugin.Names(id), "CreateContainer")
		if told == synced[id] {
			t.Errorf("container %s: in the synchronisation %v, told of its creation %v", id, synced[id], told)
		}
	}
}

// berthd is killed with a plugin connected: the plugin connects again and is told what
// there is, and what it adjusted holds.
func TestNRIAfterAKill(t *testing.T) {
	d := ownDaemon(t, "")
	adjust := func(*nriapi.PodSandbox, *nriapi.Container) (*nriapi.ContainerAdjustment, []*nriapi.ContainerUpdate) {
		a := &nriapi.ContainerAdjustment{}
		a.AddEnv("ADJUSTED", "yes")
		a.SetLinuxCPUShares(444)
		return a, nil
	}
	first := d.connect(t, &nritest.Plugin{Create: adjust})
	p := d.runPod(t)
	d.pull(t, busybox)
	running, created := p.run(), p.create()
	d.restart(t, syscall.SIGKILL)
	select {
	case <-first.Closed():
	case <-time.After(patience):
		t.Fatal("the plugin's connection outlives the daemon")
	}
	told := map[string]*nriapi.Container{}
	second := d.connect(t, &nritest.Plugin{
		Synced: func(_ []*nriapi.PodSandbox, cs []*nriapi.Container) []*nriapi.ContainerUpdate {
			for _, c := range cs {
				told[c.Id] = c
			}
			return nil
		},
	})
	for _, c := range []*ctr{running, created} {
		if !slices.Contains(told[c.id].GetEnv(), "ADJUSTED=yes") {
			t.Errorf("the plugin is told of the environment %v", told[c.id].GetEnv())
		}
		same(t, "CPU shares in the status", c.status().Resources.GetLinux().GetCpuShares(), 444)
	}
	created.start()
	same(t, "variable of the one started after the kill", created.sh("tr '\\0' '\\n' </proc/1/environ | grep ADJUSTED"), "ADJUSTED=yes")
	if !unified() {
		same(t, "its CPU shares", created.limit("cpu", "cpu.shares", ""), "444")
	}
	wantNames(t, "events after the kill", second.Names(created.id), "StartContainer", "PostStartContainer")
}

func TestNRIUpdates(t *testing.T) {
	checkLeaks(t, shared)
	var first *ctr
	shares := func(id string, n uint64) *nriapi.ContainerUpdate {
		u := &nriapi.ContainerUpdate{ContainerId: id}
		u.SetLinuxCPUShares(n)
		return u
	}
	plugin := shared.connect(t, &nritest.Plugin{
		Create: func(_ *nriapi.PodSandbox, c *nriapi.Container) (*nriapi.ContainerAdjustment, []*nriapi.ContainerUpdate) {
			if first == nil {
				return nil, nil
			}
			return nil, []*nriapi.ContainerUpdate{shares(first.id, 301)}
		},
		Update: func(c *nriapi.Container, r *nriapi.LinuxResources) []*nriapi.ContainerUpdate {
			own := shares(c.Id, r.Cpu.Shares.GetValue()*2)
			own.SetLinuxMemoryReservation(16 << 20)
			return []*nriapi.ContainerUpdate{own, shares(first.id, 302)}
		},
		Stopped: func(*nriapi.Container) []*nriapi.ContainerUpdate {
			return []*nriapi.ContainerUpdate{shares(first.id, 303)}
		},
	})
	p := shared.runPod(t, hostNetwork)
	first = p.run()
	check := func(what string, c *ctr, want int64) {
		t.Helper()
		same(t, what+": CPU shares in the status", c.status().Resources.GetLinux().GetCpuShares(), want)
		if !unified() {
			same(t, what+": CPU shares", c.limit("cpu", "cpu.shares", ""), itoa(int(want)))
		}
	}
	second := p.run()
	check("in answer to a creation", first, 301)
	err := shared.runtime.UpdateContainerResources(t.Context(), second.id, &runtimeapi.ContainerResources{
		Linux: &runtimeapi.LinuxContainerResources{CpuShares: 100, MemoryLimitInBytes: 64 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	check("the update's own", second, 200)
	same(t, "memory limit", second.limit("memory", "memory.limit_in_bytes", "memory.max"), itoa(64<<20))
	same(t, "memory reservation", second.limit("memory", "memory.soft_limit_in_bytes", "memory.low"), itoa(16<<20))
	check("in answer to an update", first, 302)
	second.stop(0)
	check("in answer to a stop", first, 303)

	failed, err := plugin.Ask(shares(first.id, 304), shares("nobody", 1), &nriapi.ContainerUpdate{ContainerId: "nobody either", IgnoreFailure: true})
	if err != nil || len(failed) != 1 || failed[0].ContainerId != "nobody" {
		t.Errorf("updates without an event: failed are %v, %v", failed, err)
	}
	check("without an event", first, 304)
}

func TestNRIValidator(t *testing.T) {
	d := ownDaemon(t, "nri:\n  defaultValidator:\n    enabled: true\n    rejectHooks: true\n    rejectSysctls: true\n")
	var adjust func(*nriapi.ContainerAdjustment)
	d.connect(t, &nritest.Plugin{
		Create: func(*nriapi.PodSandbox, *nriapi.Container) (*nriapi.ContainerAdjustment, []*nriapi.ContainerUpdate) {
			a := &nriapi.ContainerAdjustment{}
			adjust(a)
			return a, nil
		},
		Validator: func(req *nriapi.ValidateContainerAdjustmentRequest) error {
			if len(req.Adjust.GetMounts()) > 0 {
				return errors.New("no mounts here")
			}
			return nil
		},
	})
	p := d.runPod(t, hostNetwork)
	d.pull(t, busybox)
	for what, change := range map[string]func(*nriapi.ContainerAdjustment){
		"a hook": func(a *nriapi.ContainerAdjustment) {
			a.AddHooks(&nriapi.Hooks{Poststop: []*nriapi.Hook{{Path: "/bin/true"}}})
		},
		"a sysctl": func(a *nriapi.ContainerAdjustment) { a.SetLinuxSysctl("kernel.msgmax", "1") },
		"a mount": func(a *nriapi.ContainerAdjustment) {
			a.AddMount(&nriapi.Mount{Destination: "/x", Source: "/", Type: "bind"})
		},
	} {
		adjust = change
		_, err := p.tryCreate()
		wantCode(t, what, err, codes.FailedPrecondition)
	}
	same(t, "containers", p.containers(), 0)
	adjust = func(a *nriapi.ContainerAdjustment) { a.AddEnv("A", "b") }
	p.run()
}

// A second instance leaves the socket to the one that serves it, and serves.
func TestNRISocketIsNotTaken(t *testing.T) {
	socket := filepath.Join(shared.State, "nri.sock")
	second := ownDaemon(t, "nri:\n  socket: "+socket+"\n")
	if log, err := os.ReadFile(second.Log); err != nil || !strings.Contains(string(log), "NRI plugins cannot connect") {
		t.Errorf("it does not say that plugins cannot connect: %v", err)
	}
	plugin := shared.connect(t, &nritest.Plugin{})
	p := runPod(t, hostNetwork)
	other := second.runPod(t, hostNetwork)
	wantNames(t, "events of the first's pod", plugin.Names(p.id), "RunPodSandbox")
	wantNames(t, "events of the second's pod", plugin.Names(other.id))
	second.end(t, syscall.SIGTERM)
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the second has removed the socket: %v", err)
	}
}
