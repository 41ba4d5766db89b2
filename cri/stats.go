package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// statsHandlers answer the calls about resource usage.
type statsHandlers struct{ stats Stats }

// ContainerStats is NotFound for a container that is not there.
func (h *statsHandlers) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	if err := requiredID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	stats, err := h.stats.ContainerStats(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: stats}, nil
}

// ListContainerStats returns the usage of the running containers that the
// filter selects.
func (h *statsHandlers) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	if err := checkContainerStatsFilter(r.GetFilter()); err != nil {
		return nil, err
	}
	stats, err := h.stats.ListContainerStats(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: stats}, nil
}

// PodSandboxStats is NotFound for a sandbox that is not there.
func (h *statsHandlers) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	if err := requiredID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	stats, err := h.stats.PodSandboxStats(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: stats}, nil
}

// ListPodSandboxStats returns the usage of the sandboxes that the filter selects.
func (h *statsHandlers) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	if err := checkSandboxStatsFilter(r.GetFilter()); err != nil {
		return nil, err
	}
	stats, err := h.stats.ListPodSandboxStats(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: stats}, nil
}
