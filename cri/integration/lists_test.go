package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
)

// A kubelet with the gate CRIListStreaming gets by streams what it gets without.
func TestStreamedLists(t *testing.T) {
	ctx := t.Context()
	streamed, err := criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint("unix://" + shared.Socket).
		WithConnectionTimeout(2 * time.Minute).WithUseStreaming(true).Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	images, err := criclient.NewRemoteImageServiceBuilder().WithEndpoint("unix://" + shared.Socket).
		WithConnectionTimeout(2 * time.Minute).WithUseStreaming(true).Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { streamed.Close(ctx); images.Close(ctx) })
	p := runPod(t, hostNetwork)
	running := p.run()
	p.run(shell("exit 0")).wait()

	filter := &runtimeapi.ContainerFilter{PodSandboxId: p.id}
	list, err := shared.runtime.ListContainers(ctx, filter)
	if err != nil {
		t.Fatal(err)
	}
	got, err := streamed.ListContainers(ctx, filter)
	if err != nil || len(got) != 2 || got[0].Id != list[0].Id || got[1].Id != list[1].Id {
		t.Errorf("containers: %v, %v; want %v", got, err, list)
	}
	filter.State = &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	if got, err = streamed.ListContainers(ctx, filter); err != nil || len(got) != 1 || got[0].Id != running.id {
		t.Errorf("those that run: %v, %v", got, err)
	}
	if got, err = streamed.ListContainers(ctx, &runtimeapi.ContainerFilter{Id: strings.Repeat("0", 64)}); err != nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
	sandboxes, err := streamed.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{Id: p.id})
	if err != nil || len(sandboxes) != 1 || sandboxes[0].Id != p.id {
		t.Errorf("sandboxes: %v, %v", sandboxes, err)
	}
	stats, err := streamed.ListContainerStats(ctx, &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id})
	if err != nil || len(stats) != 1 || stats[0].Attributes.Id != running.id {
		t.Errorf("container stats: %v, %v", stats, err)
	}
	podStats, err := streamed.ListPodSandboxStats(ctx, &runtimeapi.PodSandboxStatsFilter{Id: p.id})
	if err != nil || len(podStats) != 1 || podStats[0].Attributes.Id != p.id {
		t.Errorf("pod stats: %v, %v", podStats, err)
	}
	// They are collected once a second, so they may be of before the pod.
	eventually(t, "the pod has metrics", func() bool {
		metrics, err := streamed.ListPodSandboxMetrics(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(metrics, func(m *runtimeapi.PodSandboxMetrics) bool { return m.PodSandboxId == p.id })
	})
	all, err := shared.images.ListImages(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	gotImages, err := images.ListImages(ctx, nil)
	if err != nil || len(gotImages) != len(all) || len(all) == 0 {
		t.Errorf("images: %v, %v; want %v", gotImages, err, all)
	}
	if _, err := streamed.ListContainers(ctx, &runtimeapi.ContainerFilter{Id: "../x"}); statusCode(err) != codes.InvalidArgument {
		t.Errorf("a malformed filter: %v", err)
	}
}

// What the kubelet says of a pod's resources is shown, and outlives the daemon.
func TestUpdatePodSandboxResources(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t, hostNetwork, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuShares: 10}
	})
	_, err := d.runtime.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2048, MemoryLimitInBytes: 128 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	shown := func() (linux struct {
		Overhead, Resources struct {
			CPUShares          string `json:"cpuShares"`
			MemoryLimitInBytes string `json:"memoryLimitInBytes"`
		}
	}) {
		t.Helper()
		status, err := d.runtime.PodSandboxStatus(t.Context(), p.id, true)
		if err != nil {
			t.Fatal(err)
		}
		info := struct{ Config struct{ Linux any } }{}
		info.Config.Linux = &linux
		if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil {
			t.Fatal(err)
		}
		return linux
	}
	for _, when := range []string{"at once", "after a restart"} {
		linux := shown()
		same(t, when+": memory limit", linux.Resources.MemoryLimitInBytes, "134217728")
		same(t, when+": CPU shares", linux.Resources.CPUShares, "2048")
		same(t, when+": overhead", linux.Overhead.CPUShares, "10")
		d.restart(t, syscall.SIGKILL)
	}
	_, err = d.runtime.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: strings.Repeat("0", 64), Overhead: &runtimeapi.LinuxContainerResources{CpuShares: 2},
	})
	same(t, "code for a pod that is not there", statusCode(err), codes.NotFound)
	_, err = d.runtime.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Overhead: &runtimeapi.LinuxContainerResources{CpuPeriod: -1},
	})
	same(t, "code for a negative period", statusCode(err), codes.InvalidArgument)
}

// The addresses that the kubelet tells become the network of the pods.
func TestPodCIDRFromTheKubelet(t *testing.T) {
	dir := shortDir(t)
	template := filepath.Join(dir, "template")
	// A drop-in: the node's own configuration has the section already.
	writeFile(t, filepath.Join(dir, "berthd.yaml.d", "template.yaml"),
		"apiVersion: berth.dev/v1alpha1\nkind: BerthConfiguration\nnetwork:\n  template: "+template+"\n")
	d := ownDaemonIn(t, dir, "")
	conf, err := filepath.Glob(filepath.Join(d.NetworkDir(), "*.conflist"))
	if err != nil || len(conf) != 1 {
		t.Fatalf("the node's network is in %v, %v", conf, err)
	}
	// The node's own network with the addresses left open.
	data, err := os.ReadFile(conf[0])
	if err != nil {
		t.Fatal(err)
	}
	var network struct {
		Plugins []struct {
			IPAM struct{ Ranges [][]struct{ Subnet string } }
		}
	}
	if err := json.Unmarshal(data, &network); err != nil || len(network.Plugins) == 0 || len(network.Plugins[0].IPAM.Ranges) == 0 {
		t.Fatalf("the node's network is %s: %v", data, err)
	}
	subnet := network.Plugins[0].IPAM.Ranges[0][0].Subnet
	writeFile(t, template, strings.Replace(string(data), subnet, "{{.PodCIDR}}", 1))
	if err := os.Remove(conf[0]); err != nil {
		t.Fatal(err)
	}
	ready := func() bool {
		status, err := d.runtime.Status(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(status.Status.Conditions, func(c *runtimeapi.RuntimeCondition) bool { return c.Type == runtimeapi.NetworkReady })
		return status.Status.Conditions[i].Status
	}
	eventually(t, "the network is gone", func() bool { return !ready() })
	update := func(cidr string) error {
		return d.runtime.UpdateRuntimeConfig(t.Context(), &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}})
	}
	same(t, "code for no CIDR", statusCode(update("10.0.0.0")), codes.InvalidArgument)
	if err := update(""); err != nil {
		t.Errorf("an empty CIDR: %v", err)
	}
	same(t, "the network before a CIDR", ready(), false)
	for range 2 {
		if err := update(subnet); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "the network", ready(), true)
	p := d.runPod(t)
	status, err := d.runtime.PodSandboxStatus(t.Context(), p.id, false)
	if err != nil {
		t.Fatal(err)
	}
	prefix := subnet[:strings.LastIndexByte(subnet, '.')+1]
	if ip := status.Status.Network.Ip; !strings.HasPrefix(ip, prefix) {
		t.Errorf("the pod's address is %q, not of %s", ip, subnet)
	}
}
