package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdatePodSandboxResources takes note of a pod's resources, which the kubelet
// has written to the pod's cgroup itself.
func (h *sandboxHandlers) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if err := checkUpdateSandboxResources(r); err != nil {
		return nil, err
	}
	if err := h.sandboxes.UpdatePodSandboxResources(ctx, r); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

func checkUpdateSandboxResources(r *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	return first(
		requiredID("pod_sandbox_id", r.GetPodSandboxId()),
		checkResources("overhead", r.GetOverhead()),
		checkResources("resources", r.GetResources()),
	)
}
