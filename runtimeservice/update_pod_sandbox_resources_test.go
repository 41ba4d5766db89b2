package runtimeservice

import (
	"encoding/json"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shownConfig is the configuration in a verbose status.
func shownConfig(t *testing.T, s *Service, pod string) *runtimeapi.PodSandboxConfig {
	t.Helper()
	status, err := s.PodSandboxStatus(t.Context(), pod, true)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Config json.RawMessage `json:"config"`
	}
	config := &runtimeapi.PodSandboxConfig{}
	if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(info.Config, config); err != nil {
		t.Fatal(err)
	}
	return config
}

func TestUpdatePodSandboxResources(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	config := podConfig("web")
	config.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuShares: 10}
	config.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 100, MemoryLimitInBytes: 1 << 20}
	asked := proto.Clone(config).(*runtimeapi.PodSandboxConfig)
	pod := mustRun(t, s, config)
	next := &runtimeapi.LinuxContainerResources{CpuQuota: 5000, CpuPeriod: 10000, MemoryLimitInBytes: 2 << 20}
	if err := s.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: next}); err != nil {
		t.Fatal(err)
	}
	check := func(s *Service, when string, overhead *runtimeapi.LinuxContainerResources) {
		t.Helper()
		shown := shownConfig(t, s, pod)
		if !proto.Equal(shown.Linux.Resources, next) || !proto.Equal(shown.Linux.Overhead, overhead) {
			t.Errorf("%s: overhead %v, resources %v", when, shown.Linux.Overhead, shown.Linux.Resources)
		}
		if shown.GetHostname() != asked.GetHostname() || shown.Linux.GetCgroupParent() != asked.Linux.GetCgroupParent() {
			t.Errorf("%s: the rest changed: %v", when, shown)
		}
	}
	check(s, "resources alone", config.Linux.Overhead)
	none := &runtimeapi.LinuxContainerResources{}
	if err := s.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Overhead: none}); err != nil {
		t.Fatal(err)
	}
	check(s, "no overhead any more", none)
	stop()
	s, _ = n.start()
	check(s, "after a restart", none)

	if err := s.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "nobody"}); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}
	if err := s.StopPodSandbox(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: next}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a stopped one: %v", err)
	}
}
