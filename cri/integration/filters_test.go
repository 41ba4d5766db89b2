package integration

import (
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Each field of a filter selects, and fields together select what all do.
func TestFiltersOfStats(t *testing.T) {
	p := runPod(t, hostNetwork, func(c *runtimeapi.PodSandboxConfig) { c.Labels["filter"] = "pod-" + c.Metadata.Uid })
	one := p.run(func(c *runtimeapi.ContainerConfig) { c.Labels["filter"] = "one" })
	two := p.run(func(c *runtimeapi.ContainerConfig) { c.Labels["filter"] = "two" })
	for name, f := range map[string]struct {
		filter *runtimeapi.ContainerStatsFilter
		want   []string
	}{
		"ID":               {&runtimeapi.ContainerStatsFilter{Id: one.id}, []string{one.id}},
		"beginning of one": {&runtimeapi.ContainerStatsFilter{Id: one.id[:20]}, []string{one.id}},
		"label":            {&runtimeapi.ContainerStatsFilter{PodSandboxId: p.id, LabelSelector: map[string]string{"filter": "two"}}, []string{two.id}},
		"both":             {&runtimeapi.ContainerStatsFilter{Id: one.id, LabelSelector: map[string]string{"filter": "two"}}, nil},
	} {
		list, err := shared.runtime.ListContainerStats(t.Context(), f.filter)
		if err != nil || len(list) != len(f.want) {
			t.Errorf("%s: %v, %v", name, list, err)
			continue
		}
		for i := range list {
			same(t, name, list[i].Attributes.Id, f.want[i])
		}
	}
	pods, err := shared.runtime.ListPodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{"filter": "pod-" + p.config.Metadata.Uid}})
	if err != nil || len(pods) != 1 || pods[0].Attributes.Id != p.id {
		t.Errorf("pods by label: %v, %v", pods, err)
	}
}

func TestStreamedImagesAreFiltered(t *testing.T) {
	read := func(name string) (ids []string, err error) {
		t.Helper()
		stream, err := shared.Images().StreamImages(t.Context(), &runtimeapi.StreamImagesRequest{
			Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: name}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for {
			page, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return ids, nil
			}
			if err != nil {
				return ids, err
			}
			for _, image := range page.Images {
				ids = append(ids, image.Id)
			}
		}
	}
	status, err := shared.images.ImageStatus(t.Context(), &runtimeapi.ImageSpec{Image: busybox}, true)
	if err != nil || status.Image == nil || len(status.Info) == 0 {
		t.Fatalf("verbose status: %v, %v", status, err)
	}
	if ids, err := read(busybox); err != nil || len(ids) != 1 || ids[0] != status.Image.Id {
		t.Errorf("by name: %v, %v", ids, err)
	}
	if ids, err := read("registry.local/nothing:here"); err != nil || len(ids) != 0 {
		t.Errorf("none: %v, %v", ids, err)
	}
	if _, err := read("a b"); statusCode(err) != codes.InvalidArgument {
		t.Errorf("malformed: %v", err)
	}
}

// A sandbox has no process: what a request says of one is taken and changes
// nothing for containers, which say so themselves.
func TestSecurityOfASandboxIsNotThatOfItsContainers(t *testing.T) {
	p := runPod(t, hostNetwork, func(c *runtimeapi.PodSandboxConfig) {
		s := c.Linux.SecurityContext
		s.RunAsUser, s.RunAsGroup = &runtimeapi.Int64Value{Value: 4242}, &runtimeapi.Int64Value{Value: 4343}
		s.SupplementalGroups = []int64{4444}
		s.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
		s.ReadonlyRootfs = true
		s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	})
	c := p.run(security(func(s securityContext) {
		s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}))
	same(t, "user", c.sh("id -u"), "0")
	same(t, "group", c.sh("id -g"), "0")
	if groups := c.sh("id -G"); strings.Contains(groups, "4444") {
		t.Errorf("groups %s", groups)
	}
	same(t, "a file in the root", c.sh("touch /x && echo written"), "written")
	same(t, "seccomp", c.procStatus("self", "Seccomp"), "0")
	status, err := shared.runtime.PodSandboxStatus(t.Context(), p.id, true)
	if err != nil || !strings.Contains(status.Info["info"], `"memoryLimitInBytes":"67108864"`) {
		t.Errorf("resources of the pod: %v, %v", status.GetInfo(), err)
	}
}

// Annotations come with an update for those who take part in it; memory nodes
// are a limit as others are.
func TestUpdateOfMemoryNodes(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(resources(func(r *runtimeapi.LinuxContainerResources) { r.CpusetMems = "0" }))
	same(t, "memory nodes", c.limit("cpuset", "cpuset.mems", "cpuset.mems"), "0")
	_, err := shared.Runtime().UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.id, Linux: &runtimeapi.LinuxContainerResources{CpusetMems: "0", MemoryLimitInBytes: 32 << 20},
		Annotations: map[string]string{"reason": "test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "memory nodes after an update", c.status().Resources.GetLinux().GetCpusetMems(), "0")
	_, err = shared.Runtime().UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.id, Linux: &runtimeapi.LinuxContainerResources{CpusetMems: "999"},
	})
	if err == nil {
		t.Error("a memory node that is not there was accepted")
	}
	same(t, "memory nodes after the refusal", c.limit("cpuset", "cpuset.mems", "cpuset.mems"), "0")
}
