package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodSandboxStatus is NotFound for a sandbox that is not there.
func (h *sandboxHandlers) PodSandboxStatus(ctx context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	if err := requiredID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return h.sandboxes.PodSandboxStatus(ctx, r.GetPodSandboxId(), r.GetVerbose())
}

// ListPodSandbox returns the sandboxes that the filter selects, all without one.
func (h *sandboxHandlers) ListPodSandbox(ctx context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	if err := checkSandboxFilter(r.GetFilter()); err != nil {
		return nil, err
	}
	items, err := h.sandboxes.ListPodSandbox(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxResponse{Items: items}, nil
}
