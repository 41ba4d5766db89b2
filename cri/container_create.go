package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containerHandlers answer the calls about containers.
type containerHandlers struct {
	lifecycle  ContainerLifecycle
	containers Containers
}

// CreateContainer creates a container in a sandbox that is ready. A repeated
// call joins the one that runs; that is the service's part.
func (h *containerHandlers) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if err := checkCreateContainer(r); err != nil {
		return nil, err
	}
	id, err := h.lifecycle.CreateContainer(ctx, r.GetPodSandboxId(), r.GetConfig(), r.GetSandboxConfig())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}
