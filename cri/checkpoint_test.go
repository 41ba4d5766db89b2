package cri

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func goodCheckpointContainer() *runtimeapi.CheckpointContainerRequest {
	return &runtimeapi.CheckpointContainerRequest{ContainerId: containerID, Location: "/var/lib/kubelet/checkpoints/a.tar", Timeout: 5}
}

func goodCheckpointPod() *runtimeapi.CheckpointPodRequest {
	return &runtimeapi.CheckpointPodRequest{
		PodSandboxId: sandboxID, OutputPath: "/var/lib/kubelet/checkpoints/a", ContainerIds: []string{containerID, "b"},
		Options: map[string]string{"tcp-established": "true"},
	}
}

func goodRestorePod() *runtimeapi.RestorePodRequest {
	return &runtimeapi.RestorePodRequest{
		CheckpointPath: "/var/lib/kubelet/checkpoints/a", Config: goodSandboxConfig(), RuntimeHandler: "runc",
		Options: map[string]string{"file-locks": "true"}, ContainerConfigs: []*runtimeapi.ContainerConfig{goodContainerConfig()},
	}
}

// badCleanPaths are refused wherever a path without detours is.
var badCleanPaths = map[string]string{"root": "/", "detour": "/a/../b", "doubled": "/a//b", "trailing": "/a/"}

// badCleanPath are the cases of a field that is a path without detours.
func badCleanPath[R any](field string, at func(R) *string) []malformedCase[R] {
	var cases []malformedCase[R]
	for _, bad := range []map[string]string{badPaths, badCleanPaths} {
		for name, v := range bad {
			cases = append(cases, malformedCase[R]{field, name, func(r R) { *at(r) = v }})
		}
	}
	return cases
}

func malformedCheckpointContainer() malformedTable {
	type request = *runtimeapi.CheckpointContainerRequest
	cases := []malformedCase[request]{
		{"timeout", "negative", func(r request) { r.Timeout = -1 }},
	}
	cases = append(cases, badID("container_id", func(r request) *string { return &r.ContainerId }, true)...)
	cases = append(cases, badCleanPath("location", func(r request) *string { return &r.Location })...)
	return tableOf("CheckpointContainer", goodCheckpointContainer, cases)
}

func malformedCheckpointPod() malformedTable {
	type request = *runtimeapi.CheckpointPodRequest
	cases := []malformedCase[request]{
		{"container_ids", "empty", func(r request) { r.ContainerIds = nil }},
		{"container_ids[1]", "empty", func(r request) { r.ContainerIds[1] = "" }},
		{"container_ids[1]", "twice", func(r request) { r.ContainerIds[1] = containerID }},
		{`options["a b"]`, "white space", func(r request) { r.Options = map[string]string{"a b": "true"} }},
		{`options["a"]`, "newline", func(r request) { r.Options = map[string]string{"a": "x\ny"} }},
	}
	cases = append(cases, badID("pod_sandbox_id", func(r request) *string { return &r.PodSandboxId }, true)...)
	cases = append(cases, badCleanPath("output_path", func(r request) *string { return &r.OutputPath })...)
	return tableOf("CheckpointPod", goodCheckpointPod, cases)
}

func malformedRestorePod() malformedTable {
	type request = *runtimeapi.RestorePodRequest
	cases := []malformedCase[request]{
		{"config", "absent", func(r request) { r.Config = nil }},
		{"runtime_handler", "path", func(r request) { r.RuntimeHandler = "../runc" }},
		{"container_configs", "empty", func(r request) { r.ContainerConfigs = nil }},
		{"container_configs[0].metadata", "absent", func(r request) { r.ContainerConfigs[0].Metadata = nil }},
		{"container_configs[1].metadata.name", "twice", func(r request) {
			r.ContainerConfigs = append(r.ContainerConfigs, goodContainerConfig())
		}},
		{"container_configs[0].devices[0].host_path", "relative", func(r request) { r.ContainerConfigs[0].Devices[0].HostPath = "dev/fuse" }},
		{"container_configs[0].image.image", "an archive", func(r request) { r.ContainerConfigs[0].Image.Image = "/a.tar" }},
	}
	cases = append(cases, badCleanPath("checkpoint_path", func(r request) *string { return &r.CheckpointPath })...)
	cases = append(cases, nested("config", request.GetConfig, sandboxConfigCases())...)
	cases = append(cases, nested("container_configs[0]", func(r request) *runtimeapi.ContainerConfig { return r.ContainerConfigs[0] }, containerConfigCases())...)
	cases = append(cases, malformedCase[request]{`options["a"]`, "newline", func(r request) { r.Options = map[string]string{"a": "x\ny"} }})
	return tableOf("RestorePod", goodRestorePod, cases)
}

// A container can be created of the path of a checkpoint.
func TestCreateContainerOfAnArchive(t *testing.T) {
	r := goodCreateContainer()
	r.Config.Image.Image = "/var/lib/kubelet/checkpoints/a.tar"
	if err := checkCreateContainer(r); err != nil {
		t.Error(err)
	}
	for name, v := range badCleanPaths {
		r.Config.Image.Image = v
		if err := checkCreateContainer(r); err == nil {
			t.Errorf("%s: %q was accepted", name, v)
		}
	}
}
