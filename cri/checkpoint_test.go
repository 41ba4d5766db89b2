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

func TestMalformedCheckpointContainer(t *testing.T) {
	type request = *runtimeapi.CheckpointContainerRequest
	cases := []malformedCase[request]{
		{"container_id", "empty", func(r request) { r.ContainerId = "" }},
		{"container_id", "a path", func(r request) { r.ContainerId = "../c" }},
		{"timeout", "negative", func(r request) { r.Timeout = -1 }},
	}
	for _, bad := range []map[string]string{badPaths, badCleanPaths} {
		for name, v := range bad {
			cases = append(cases, malformedCase[request]{"location", name, func(r request) { r.Location = v }})
		}
	}
	runMalformed(t, goodCheckpointContainer, checkCheckpointContainer, cases)
}

func TestMalformedCheckpointPod(t *testing.T) {
	type request = *runtimeapi.CheckpointPodRequest
	cases := []malformedCase[request]{
		{"pod_sandbox_id", "empty", func(r request) { r.PodSandboxId = "" }},
		{"container_ids", "empty", func(r request) { r.ContainerIds = nil }},
		{"container_ids[1]", "empty", func(r request) { r.ContainerIds[1] = "" }},
		{"container_ids[1]", "twice", func(r request) { r.ContainerIds[1] = containerID }},
		{`options["a b"]`, "white space", func(r request) { r.Options = map[string]string{"a b": "true"} }},
		{`options["a"]`, "newline", func(r request) { r.Options = map[string]string{"a": "x\ny"} }},
	}
	for _, bad := range []map[string]string{badPaths, badCleanPaths} {
		for name, v := range bad {
			cases = append(cases, malformedCase[request]{"output_path", name, func(r request) { r.OutputPath = v }})
		}
	}
	runMalformed(t, goodCheckpointPod, checkCheckpointPod, cases)
}

func TestMalformedRestorePod(t *testing.T) {
	type request = *runtimeapi.RestorePodRequest
	cases := []malformedCase[request]{
		{"config", "absent", func(r request) { r.Config = nil }},
		{"runtime_handler", "path", func(r request) { r.RuntimeHandler = "../runc" }},
		{"container_configs", "empty", func(r request) { r.ContainerConfigs = nil }},
		{"container_configs[0].metadata", "absent", func(r request) { r.ContainerConfigs[0].Metadata = nil }},
		{"container_configs[1].metadata.name", "twice", func(r request) {
			r.ContainerConfigs = append(r.ContainerConfigs, goodContainerConfig())
		}},
		{"container_configs[0].image.image", "an archive", func(r request) { r.ContainerConfigs[0].Image.Image = "/a.tar" }},
	}
	for _, bad := range []map[string]string{badPaths, badCleanPaths} {
		for name, v := range bad {
			cases = append(cases, malformedCase[request]{"checkpoint_path", name, func(r request) { r.CheckpointPath = v }})
		}
	}
	for _, c := range sandboxConfigCases() {
		cases = append(cases, malformedCase[request]{"config." + c.path, c.name, func(r request) { c.change(r.Config) }})
	}
	runMalformed(t, goodRestorePod, checkRestorePod, cases)
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
