package cri

import (
	"context"
	"path"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CheckpointContainer writes an archive of a running container, which goes on.
func (h *containerHandlers) CheckpointContainer(ctx context.Context, r *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	if err := checkCheckpointContainer(r); err != nil {
		return nil, err
	}
	if err := h.lifecycle.CheckpointContainer(ctx, r.GetContainerId(), r.GetLocation(), seconds(r.GetTimeout())); err != nil {
		return nil, err
	}
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

func checkCheckpointContainer(r *runtimeapi.CheckpointContainerRequest) error {
	if r.GetTimeout() < 0 {
		return first(requiredID("container_id", r.GetContainerId()), cleanPath("location", r.GetLocation()),
			invalid("timeout", "must not be negative"))
	}
	return first(requiredID("container_id", r.GetContainerId()), cleanPath("location", r.GetLocation()))
}

// CheckpointPod writes a checkpoint of containers of a pod, which go on.
func (h *sandboxHandlers) CheckpointPod(ctx context.Context, r *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	if err := checkCheckpointPod(r); err != nil {
		return nil, err
	}
	if err := h.sandboxes.CheckpointPod(ctx, r); err != nil {
		return nil, err
	}
	return &runtimeapi.CheckpointPodResponse{}, nil
}

func checkCheckpointPod(r *runtimeapi.CheckpointPodRequest) error {
	if err := first(requiredID("pod_sandbox_id", r.GetPodSandboxId()), cleanPath("output_path", r.GetOutputPath())); err != nil {
		return err
	}
	if len(r.GetContainerIds()) == 0 {
		return invalid("container_ids", "must not be empty")
	}
	seen := map[string]bool{}
	return first(each("container_ids", r.GetContainerIds(), func(p, id string) error {
		if seen[id] {
			return invalid(p, "%q is there twice", shorten(id))
		}
		seen[id] = true
		return requiredID(p, id)
	}), checkOptions("options", r.GetOptions()))
}

// RestorePod makes a pod of a checkpoint; its containers are created and go on when they
// are started.
func (h *sandboxHandlers) RestorePod(ctx context.Context, r *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	if err := checkRestorePod(r); err != nil {
		return nil, err
	}
	return h.sandboxes.RestorePod(ctx, r)
}

func checkRestorePod(r *runtimeapi.RestorePodRequest) error {
	if err := cleanPath("checkpoint_path", r.GetCheckpointPath()); err != nil {
		return err
	}
	if r.GetConfig() == nil {
		return invalid("config", "must be set")
	}
	if err := first(
		checkSandboxConfig("config", r.GetConfig()),
		matches("runtime_handler", r.GetRuntimeHandler(), handlerPattern, "a name of a runtime handler"),
		checkOptions("options", r.GetOptions()),
	); err != nil {
		return err
	}
	if len(r.GetContainerConfigs()) == 0 {
		return invalid("container_configs", "must not be empty")
	}
	seen := map[string]bool{}
	return each("container_configs", r.GetContainerConfigs(), func(p string, c *runtimeapi.ContainerConfig) error {
		if err := checkContainerConfig(p, c); err != nil {
			return err
		}
		name := c.GetMetadata().GetName()
		if seen[name] {
			return invalid(field(p, "metadata.name"), "%q is the name of another container too", shorten(name))
		}
		seen[name] = true
		return nil
	})
}

// checkOptions checks the form of options; which there are is decided behind this package.
func checkOptions(path string, options map[string]string) error {
	for k, v := range options {
		if err := first(requiredWord(entry(path, k), k), word(entry(path, k), v)); err != nil {
			return err
		}
	}
	return nil
}

// cleanPath checks an absolute path that leads straight to its end.
func cleanPath(p, v string) error {
	if err := absolutePath(p, v); err != nil {
		return err
	}
	if v == "/" || path.Clean(v) != v {
		return invalid(p, "%q must be a path without detours", shorten(v))
	}
	return nil
}

// checkContainerImage checks the image of a container to be created: also the path of an
// archive with a checkpoint.
func checkContainerImage(path string, s *runtimeapi.ImageSpec) error {
	if name := s.GetImage(); len(name) > 0 && name[0] == '/' {
		rest := &runtimeapi.ImageSpec{
			Annotations: s.GetAnnotations(), UserSpecifiedImage: s.GetUserSpecifiedImage(),
			RuntimeHandler: s.GetRuntimeHandler(), ImageRef: s.GetImageRef(),
		}
		return first(cleanPath(field(path, "image"), name), checkImageFilter(path, rest))
	}
	return checkImage(path, s)
}
