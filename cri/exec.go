package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Exec returns the URL of a session that runs a command in a container.
func (h *execHandlers) Exec(ctx context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := checkExec(r); err != nil {
		return nil, err
	}
	id, err := h.streams.ResolveContainer(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return h.urls.exec(&runtimeapi.ExecRequest{
		ContainerId: id, Cmd: r.GetCmd(), Tty: r.GetTty(),
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(),
	})
}
