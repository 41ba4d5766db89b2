package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Attach returns the URL of a session with the streams of a container that runs,
// or that is created: its session begins with its first byte. One that has ended
// is FailedPrecondition.
func (h *execHandlers) Attach(ctx context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkAttach(r); err != nil {
		return nil, err
	}
	resp, err := h.containers.ContainerStatus(ctx, r.GetContainerId(), false)
	if err != nil {
		return nil, err
	}
	container := resp.GetStatus()
	switch container.GetState() {
	case runtimeapi.ContainerState_CONTAINER_CREATED, runtimeapi.ContainerState_CONTAINER_RUNNING:
	default:
		return nil, fmt.Errorf("attach to container %s: it has ended: %w", container.GetId(), errdefs.ErrFailedPrecondition)
	}
	return h.urls.attach(&runtimeapi.AttachRequest{
		ContainerId: container.GetId(), Tty: r.GetTty(),
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(),
	})
}
