package runtimeservice

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// giveCgroup writes a version 2 cgroup below the test's root.
func giveCgroup(t *testing.T, n *node, cgroup, cpuMicroseconds, memory string) {
	t.Helper()
	dir := filepath.Join(n.root, cgroup)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		filepath.Join(n.root, "cgroup.controllers"): "cpu memory pids\n",
		filepath.Join(dir, "cpu.stat"):              "usage_usec " + cpuMicroseconds + "\n",
		filepath.Join(dir, "memory.current"):        memory + "\n",
		filepath.Join(dir, "memory.stat"):           "anon 500\ninactive_file 100\npgfault 7\npgmajfault 2\n",
		filepath.Join(dir, "memory.max"):            "4000\n",
		filepath.Join(dir, "memory.swap.current"):   "0\n",
		filepath.Join(dir, "memory.swap.max"):       "max\n",
		filepath.Join(dir, "pids.current"):          "3\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStats(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	pod := mustRun(t, s, podConfig("web"))
	app, ended := mustStart(t, s, pod, "app"), mustStart(t, s, pod, "ended")
	n.monitor.exit(ended, monitor.Exit{})
	giveCgroup(t, n, "/kubepods/podweb/"+app, "2000000", "1000")
	giveCgroup(t, n, "/kubepods/podweb", "3000000", "1500")

	item, err := s.ContainerStats(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	memory := item.GetMemory()
	switch {
	case item.GetCpu().GetUsageCoreNanoSeconds().GetValue() != 2e9,
		memory.GetWorkingSetBytes().GetValue() != 900,
		memory.GetAvailableBytes().GetValue() != 3100,
		memory.GetRssBytes().GetValue() != 500,
		memory.GetPageFaults().GetValue() != 7,
		memory.GetMajorPageFaults().GetValue() != 2,
		item.GetSwap().GetSwapUsageBytes() == nil,
		item.GetSwap().GetSwapAvailableBytes() != nil,
		item.GetWritableLayer().GetUsedBytes().GetValue() != 4096,
		item.GetAttributes().GetLabels()["container"] != "app":
		t.Errorf("stats %v", item)
	}
	items, err := s.ListContainerStats(t.Context(), &runtimeapi.ContainerStatsFilter{PodSandboxId: pod})
	if err != nil || len(items) != 1 || items[0].GetAttributes().GetId() != app {
		t.Errorf("list %v, %v", items, err)
	}
	item, err = s.ContainerStats(t.Context(), ended)
	if err != nil || item.GetCpu() != nil || item.GetWritableLayer() == nil {
		t.Errorf("exited container: %v, %v", item, err)
	}
	if _, err := s.ContainerStats(t.Context(), "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}

	podItem, err := s.PodSandboxStats(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	linux := podItem.GetLinux()
	if linux.GetCpu().GetUsageCoreNanoSeconds().GetValue() != 3e9 || linux.GetMemory().GetUsageBytes().GetValue() != 1500 ||
		linux.GetProcess().GetProcessCount().GetValue() != 3 || len(linux.GetContainers()) != 1 {
		t.Errorf("pod %v", podItem)
	}
}

// TestPodsThatShareACgroupParent are measured by their containers.
func TestPodsThatShareACgroupParent(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	configA, configB := podConfig("a"), podConfig("b")
	configA.Linux.CgroupParent, configB.Linux.CgroupParent = "/shared", "/shared"
	a, b := mustRun(t, s, configA), mustRun(t, s, configB)
	one, two := mustStart(t, s, a, "one"), mustStart(t, s, a, "two")
	giveCgroup(t, n, "/shared", "9000000", "9000")
	giveCgroup(t, n, "/shared/"+one, "1000000", "1000")
	giveCgroup(t, n, "/shared/"+two, "1000000", "1000")
	items, err := s.ListPodSandboxStats(t.Context(), nil)
	if err != nil || len(items) != 2 {
		t.Fatalf("%v, %v", items, err)
	}
	for i, want := range []uint64{2e9, 0} {
		if got := items[i].GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue(); got != want {
			t.Errorf("pod %d used %d, want %d", i, got, want)
		}
	}
	if items[0].GetLinux().GetMemory().GetAvailableBytes().GetValue() != 8000-1800 {
		t.Errorf("memory %v", items[0].GetLinux().GetMemory())
	}
	if err := s.StopPodSandbox(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	items, err = s.ListPodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{"app": "b"}})
	if err != nil || len(items) != 0 {
		t.Errorf("a stopped pod has %v, %v", items, err)
	}
}
