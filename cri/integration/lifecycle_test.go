package integration

import (
	"context"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestVersionAndStatus(t *testing.T) {
	v, err := shared.runtime.Version(t.Context(), "0.1.0")
	if err != nil || v.RuntimeName != "berth" || v.RuntimeApiVersion != "v1" || v.RuntimeVersion == "" {
		t.Errorf("version: %v, %v", v, err)
	}
	c, err := shared.runtime.RuntimeConfig(t.Context())
	if err != nil || c.Linux == nil {
		t.Errorf("configuration: %v, %v", c, err)
	}
	s, err := shared.runtime.Status(t.Context(), true)
	if err != nil || len(s.RuntimeHandlers) == 0 || s.Features == nil || !s.Features.SupplementalGroupsPolicy {
		t.Errorf("status: %v, %v", s, err)
	}
	if err := shared.runtime.UpdateRuntimeConfig(t.Context(), &runtimeapi.RuntimeConfig{}); err != nil {
		t.Errorf("an update that says nothing: %v", err)
	}
}

func TestLifeOfAPod(t *testing.T) {
	p := runPod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations = map[string]string{"note": "two\nlines"}
		c.Labels["name"] = c.Metadata.Name
	})
	s := p.status()
	same(t, "ID", s.Id, p.id)
	same(t, "state", s.State, runtimeapi.PodSandboxState_SANDBOX_READY)
	same(t, "name", s.Metadata.Name, p.config.Metadata.Name)
	same(t, "uid", s.Metadata.Uid, p.config.Metadata.Uid)
	same(t, "annotation", s.Annotations["note"], "two\nlines")
	same(t, "label", s.Labels["name"], p.config.Metadata.Name)
	if s.CreatedAt <= 0 {
		t.Errorf("created at %d", s.CreatedAt)
	}
	for name, filter := range map[string]*runtimeapi.PodSandboxFilter{
		"ID":     {Id: p.id},
		"prefix": {Id: p.id[:13]},
		"state":  {Id: p.id, State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}},
		"labels": {LabelSelector: map[string]string{"name": p.config.Metadata.Name, "test": "yes"}},
	} {
		list, err := shared.runtime.ListPodSandbox(t.Context(), filter)
		if err != nil || len(list) != 1 || list[0].Id != p.id || list[0].CreatedAt != s.CreatedAt {
			t.Errorf("by %s: %v, %v", name, list, err)
		}
	}
	for name, filter := range map[string]*runtimeapi.PodSandboxFilter{
		"state": {Id: p.id, State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}},
		"label": {LabelSelector: map[string]string{"name": "another"}},
		"ID":    {Id: strings.Repeat("0", 64)},
	} {
		if list, err := shared.runtime.ListPodSandbox(t.Context(), filter); err != nil || len(list) != 0 {
			t.Errorf("by another %s: %v, %v", name, list, err)
		}
	}
	c := p.run()
	for range 2 {
		if err := shared.runtime.StopPodSandbox(t.Context(), p.id); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "state after the stop", p.status().State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
	same(t, "its container", c.status().State, runtimeapi.ContainerState_CONTAINER_EXITED)
	_, err := p.tryCreate()
	wantCode(t, "a container in a stopped pod", err, failedPrecondition)
	for range 2 {
		if err := shared.runtime.RemovePodSandbox(t.Context(), p.id); err != nil {
			t.Fatal(err)
		}
	}
	_, err = shared.runtime.PodSandboxStatus(t.Context(), p.id, false)
	wantCode(t, "status of what was removed", err, notFound)
	_, err = shared.runtime.ContainerStatus(t.Context(), c.id, false)
	wantCode(t, "status of its container", err, notFound)
}

func TestLifeOfAContainer(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.create(func(c *runtimeapi.ContainerConfig) {
		c.Metadata.Attempt = 3
		c.Labels["name"] = c.Metadata.Name
		c.Annotations = map[string]string{"hash": "abc"}
	})
	s := c.status()
	same(t, "state", s.State, runtimeapi.ContainerState_CONTAINER_CREATED)
	same(t, "started", s.StartedAt, 0)
	same(t, "attempt", s.Metadata.Attempt, 3)
	same(t, "annotation", s.Annotations["hash"], "abc")
	same(t, "log", s.LogPath, c.logFile())
	same(t, "image", s.Image.Image, busybox)
	image, err := shared.images.ImageStatus(t.Context(), &runtimeapi.ImageSpec{Image: busybox}, false)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "image ID", s.ImageId, image.Image.Id)
	if !slices.Contains(image.Image.RepoDigests, s.ImageRef) {
		t.Errorf("image reference is %q, the digests are %v", s.ImageRef, image.Image.RepoDigests)
	}
	state := func(want runtimeapi.ContainerState) {
		t.Helper()
		same(t, "state", c.status().State, want)
		list, err := shared.runtime.ListContainers(t.Context(), &runtimeapi.ContainerFilter{
			Id: c.id[:20], PodSandboxId: p.id, LabelSelector: map[string]string{"name": c.conf.Metadata.Name},
			State: &runtimeapi.ContainerStateValue{State: want},
		})
		if err != nil || len(list) != 1 || list[0].Id != c.id || list[0].State != want || list[0].ImageId != image.Image.Id {
			t.Errorf("list by all: %v, %v", list, err)
		}
	}
	state(runtimeapi.ContainerState_CONTAINER_CREATED)
	c.start()
	state(runtimeapi.ContainerState_CONTAINER_RUNNING)
	wantCode(t, "a second start", shared.runtime.StartContainer(t.Context(), c.id), failedPrecondition)
	c.stop(0)
	state(runtimeapi.ContainerState_CONTAINER_EXITED)
	wantCode(t, "a start after the end", shared.runtime.StartContainer(t.Context(), c.id), failedPrecondition)
	for range 2 {
		if err := shared.runtime.RemoveContainer(t.Context(), c.id); err != nil {
			t.Fatal(err)
		}
	}
	_, err = shared.runtime.ContainerStatus(t.Context(), c.id, false)
	wantCode(t, "status of what was removed", err, notFound)
	if list, err := shared.runtime.ListContainers(t.Context(), &runtimeapi.ContainerFilter{Id: c.id}); err != nil || len(list) != 0 {
		t.Errorf("list of what was removed: %v, %v", list, err)
	}
	// A running container is removed by force.
	r := p.run()
	if err := shared.runtime.RemoveContainer(t.Context(), r.id); err != nil {
		t.Errorf("remove a running container: %v", err)
	}
}

func TestUnknownIDs(t *testing.T) {
	id := strings.Repeat("f", 64)
	ctx := context.Background()
	for name, err := range map[string]error{
		"StopPodSandbox":   shared.runtime.StopPodSandbox(ctx, id),
		"RemovePodSandbox": shared.runtime.RemovePodSandbox(ctx, id),
		"StopContainer":    shared.runtime.StopContainer(ctx, id, 0),
		"RemoveContainer":  shared.runtime.RemoveContainer(ctx, id),
		"RemoveImage":      shared.images.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: "sha256:" + id}),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCode(t, "StartContainer", shared.runtime.StartContainer(ctx, id), notFound)
	wantCode(t, "ReopenContainerLog", shared.runtime.ReopenContainerLog(ctx, id), notFound)
	_, err := shared.runtime.ContainerStats(ctx, id)
	wantCode(t, "ContainerStats", err, notFound)
	_, err = shared.runtime.PodSandboxStats(ctx, id)
	wantCode(t, "PodSandboxStats", err, notFound)
	_, err = shared.runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
	wantCode(t, "Attach", err, notFound)
	_, err = shared.runtime.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: id})
	wantCode(t, "PortForward", err, notFound)
}
