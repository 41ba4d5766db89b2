package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PortForward returns the URL of a session with ports of a pod. Over SPDY the
// client names them as it goes; over WebSocket they are those of the request.
func (h *execHandlers) PortForward(ctx context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if err := checkPortForward(r); err != nil {
		return nil, err
	}
	id, err := h.streams.ResolveSandbox(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return h.urls.portForward(&runtimeapi.PortForwardRequest{PodSandboxId: id, Port: r.GetPort()})
}
