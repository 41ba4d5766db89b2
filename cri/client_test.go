package cri

import (
	"bytes"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
	utilexec "k8s.io/utils/exec"
)

// The kubelet's own client gets through every call that it makes.
func TestWithTheKubeletsClient(t *testing.T) {
	f := serve(t, nil)
	ctx := t.Context()
	runtime, err := criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint("unix://" + f.socket).WithConnectionTimeout(2 * time.Minute).WithUseStreaming(true).Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.Close(ctx)
	images, err := criclient.NewRemoteImageServiceBuilder().WithEndpoint("unix://" + f.socket).WithConnectionTimeout(2 * time.Minute).Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close(ctx)

	version, err := runtime.Version(ctx, kubeletAPIVersion)
	if err != nil || version.RuntimeName != "berth" || version.RuntimeVersion != "1.2.3" || version.Version != "0.1.0" || version.RuntimeApiVersion != "v1" {
		t.Errorf("Version: %v, %v", version, err)
	}
	st, err := runtime.Status(ctx, true)
	if err != nil || len(st.Status.Conditions) != 2 {
		t.Errorf("Status: %v, %v", st, err)
	}
	rc, err := runtime.RuntimeConfig(ctx)
	if err != nil || rc.Linux.CgroupDriver != runtimeapi.CgroupDriver_CGROUPFS {
		t.Errorf("RuntimeConfig: %v, %v", rc, err)
	}
	id, err := runtime.RunPodSandbox(ctx, goodSandboxConfig(), "")
	if err != nil || id != sandboxID {
		t.Errorf("RunPodSandbox: %v, %v", id, err)
	}
	if s, err := runtime.PodSandboxStatus(ctx, id, true); err != nil || s.Status.Id != id {
		t.Errorf("PodSandboxStatus: %v, %v", s, err)
	}
	// With streaming lists the client falls back to the plain ones.
	if l, err := runtime.ListPodSandbox(ctx, nil); err != nil || len(l) != 1 {
		t.Errorf("ListPodSandbox: %v, %v", l, err)
	}
	if l, err := runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{}); err != nil || len(l) != 1 {
		t.Errorf("ListContainers: %v, %v", l, err)
	}
	container, err := runtime.CreateContainer(ctx, id, goodContainerConfig(), goodSandboxConfig())
	if err != nil || container != containerID {
		t.Errorf("CreateContainer: %v, %v", container, err)
	}
	if s, err := runtime.ContainerStatus(ctx, container, false); err != nil || s.Status.Id != container {
		t.Errorf("ContainerStatus: %v, %v", s, err)
	}
	stdout, stderr, err := runtime.ExecSync(ctx, container, []string{"false"}, time.Second)
	var exit utilexec.ExitError
	if e, ok := err.(utilexec.ExitError); ok {
		exit = e
	}
	if exit == nil || exit.ExitStatus() != 3 || !bytes.Equal(stdout, []byte("out")) || !bytes.Equal(stderr, []byte("err")) {
		t.Errorf("ExecSync: %q, %q, %v", stdout, stderr, err)
	}
	for name, err := range map[string]error{
		"StartContainer":           runtime.StartContainer(ctx, container),
		"ReopenContainerLog":       runtime.ReopenContainerLog(ctx, container),
		"UpdateContainerResources": runtime.UpdateContainerResources(ctx, container, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{}}),
		"StopContainer":            runtime.StopContainer(ctx, container, 30),
		"RemoveContainer":          runtime.RemoveContainer(ctx, container),
		"StopPodSandbox":           runtime.StopPodSandbox(ctx, id),
		"RemovePodSandbox":         runtime.RemovePodSandbox(ctx, id),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s, err := runtime.ContainerStats(ctx, container); err != nil || s.Attributes.Id != container {
		t.Errorf("ContainerStats: %v, %v", s, err)
	}
	if s, err := runtime.ListContainerStats(ctx, nil); err != nil || len(s) != 1 {
		t.Errorf("ListContainerStats: %v, %v", s, err)
	}
	if s, err := runtime.PodSandboxStats(ctx, id); err != nil || s.Attributes.Id != id {
		t.Errorf("PodSandboxStats: %v, %v", s, err)
	}
	if s, err := runtime.ListPodSandboxStats(ctx, nil); err != nil || len(s) != 1 {
		t.Errorf("ListPodSandboxStats: %v, %v", s, err)
	}

	spec := &runtimeapi.ImageSpec{Image: "busybox"}
	if ref, err := images.PullImage(ctx, spec, nil, nil); err != nil || ref != imageID {
		t.Errorf("PullImage: %v, %v", ref, err)
	}
	if l, err := images.ListImages(ctx, &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{}}); err != nil || len(l) != 1 {
		t.Errorf("ListImages: %v, %v", l, err)
	}
	if s, err := images.ImageStatus(ctx, spec, false); err != nil || s.Image.Id != imageID {
		t.Errorf("ImageStatus: %v, %v", s, err)
	}
	if err := images.RemoveImage(ctx, spec); err != nil {
		t.Errorf("RemoveImage: %v", err)
	}
	if i, err := images.ImageFsInfo(ctx); err != nil || len(i.ImageFilesystems) != 1 {
		t.Errorf("ImageFsInfo: %v, %v", i, err)
	}
}
