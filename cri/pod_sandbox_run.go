package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandboxHandlers answer the calls about pod sandboxes.
type sandboxHandlers struct{ sandboxes Sandboxes }

// RunPodSandbox returns when the sandbox is ready. A repeated call joins the one
// that runs; that is the service's part.
func (h *sandboxHandlers) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := checkRunPodSandbox(r); err != nil {
		return nil, err
	}
	id, err := h.sandboxes.RunPodSandbox(ctx, r.GetConfig(), r.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}
