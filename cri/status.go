package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Status tells whether the runtime and its network are ready.
func (h *nodeHandlers) Status(ctx context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return h.node.RuntimeStatus(ctx, r.GetVerbose())
}
