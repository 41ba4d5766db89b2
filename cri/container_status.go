package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerStatus is NotFound for a container that is not there.
func (h *containerHandlers) ContainerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	if err := requiredID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	return h.containers.ContainerStatus(ctx, r.GetContainerId(), r.GetVerbose())
}

// ListContainers returns the containers that the filter selects, all without one.
func (h *containerHandlers) ListContainers(ctx context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	if err := checkContainerFilter(r.GetFilter()); err != nil {
		return nil, err
	}
	list, err := h.containers.ListContainers(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainersResponse{Containers: list}, nil
}
