package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxExecOutput bounds stdout and stderr of one response together. The CRI text
// allows 16 MiB for each, but a client takes no message larger than that in all;
// what does not fit would turn a command that succeeded into a failed call.
const maxExecOutput = maxMessageSize - 4<<10

// execHandlers answer the calls that run commands or open streams.
type execHandlers struct {
	sync       SyncExecutor
	streams    Streams
	containers Containers
	urls       *streamingServer
}

// ExecSync runs a command to its end. A non-zero exit code is a result; a
// command that ran out of time is DeadlineExceeded.
func (h *execHandlers) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if err := checkExecSync(r); err != nil {
		return nil, err
	}
	stdout, stderr, code, err := h.sync.ExecSync(ctx, r.GetContainerId(), r.GetCmd(), seconds(r.GetTimeout()))
	if err != nil {
		return nil, err
	}
	stdout, stderr = fit(stdout, stderr, maxExecOutput)
	return &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: code}, nil
}

// fit cuts two outputs to limit bytes together. One that needs less than half
// leaves the rest to the other.
func fit(stdout, stderr []byte, limit int) ([]byte, []byte) {
	if len(stdout)+len(stderr) <= limit {
		return stdout, stderr
	}
	half := limit / 2
	switch {
	case len(stderr) <= half:
		return stdout[:limit-len(stderr)], stderr
	case len(stdout) <= half:
		return stdout, stderr[:limit-len(stdout)]
	}
	return stdout[:half], stderr[:half]
}
