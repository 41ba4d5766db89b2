package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Attach returns the URL of a session with the streams of a container.
func (h *execHandlers) Attach(ctx context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkAttach(r); err != nil {
		return nil, err
	}
	id, err := h.streams.ResolveContainer(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return h.urls.attach(&runtimeapi.AttachRequest{
		ContainerId: id, Tty: r.GetTty(),
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(),
	})
}
