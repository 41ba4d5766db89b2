package integration

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStats(t *testing.T) {
	p := runPod(t)
	c := p.run(shell("head -c 5000000 /dev/zero > /written; while true; do i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; sleep 0.01; done"))
	var s *runtimeapi.ContainerStats
	eventually(t, "the container has used the CPU, memory and its writable layer", func() bool {
		var err error
		if s, err = shared.runtime.ContainerStats(t.Context(), c.id); err != nil {
			t.Fatal(err)
		}
		return s.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 1e6 && s.GetMemory().GetWorkingSetBytes().GetValue() > 0 &&
			s.GetWritableLayer().GetUsedBytes().GetValue() >= 5000000
	})
	same(t, "ID", s.Attributes.Id, c.id)
	same(t, "name", s.Attributes.Metadata.Name, c.conf.Metadata.Name)
	same(t, "label", s.Attributes.Labels["test"], "yes")
	if s.Cpu.Timestamp <= 0 || s.Memory.Timestamp <= 0 || s.WritableLayer.Timestamp <= 0 || s.WritableLayer.FsId.GetMountpoint() == "" {
		t.Errorf("the stats are %v", s)
	}
	list, err := shared.runtime.ListContainerStats(t.Context(), &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id})
	if err != nil || len(list) != 1 || list[0].Attributes.Id != c.id {
		t.Errorf("list: %v, %v", list, err)
	}

	pod, err := shared.runtime.PodSandboxStats(t.Context(), p.id)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "pod's ID", pod.Attributes.Id, p.id)
	same(t, "pod's containers", len(pod.Linux.Containers), 1)
	if pod.Linux.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0 || pod.Linux.Memory.GetWorkingSetBytes().GetValue() == 0 ||
		pod.Linux.Process.GetProcessCount().GetValue() == 0 {
		t.Errorf("the pod's stats are %v", pod)
	}
	net := pod.Linux.Network.GetDefaultInterface()
	if net.GetName() != "eth0" || net.GetTxBytes() == nil || net.GetRxBytes() == nil {
		t.Errorf("the pod's network is %v", pod.Linux.Network)
	}
	pods, err := shared.runtime.ListPodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsFilter{Id: p.id})
	if err != nil || len(pods) != 1 || pods[0].Attributes.Id != p.id {
		t.Errorf("list of pods: %v, %v", pods, err)
	}
}
