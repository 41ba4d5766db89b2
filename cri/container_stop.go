package cri

import (
	"context"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopContainer is idempotent: a container that is not there is stopped.
func (h *containerHandlers) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if err := checkStopContainer(r); err != nil {
		return nil, err
	}
	err := h.lifecycle.StopContainer(ctx, r.GetContainerId(), seconds(r.GetTimeout()))
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer is idempotent: a container that is not there is removed.
func (h *containerHandlers) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	if err := requiredID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	if err := h.lifecycle.RemoveContainer(ctx, r.GetContainerId()); err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}
