package cri

import (
	"context"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// readDeadline holds for calls that only look.
	readDeadline = time.Minute
	// changeDeadline holds for calls that change a pod or a container. A call
	// that waits for a process adds the time that the request gives it.
	changeDeadline = 4 * time.Minute
)

// deadlineUnary gives a call without a deadline one, so that a client that
// forgot it does not wait for ever. PullImage gets none, since an image may take
// as long as its bytes arrive, and neither does ExecSync without a timeout,
// which by the CRI text runs for ever.
func deadlineUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if _, has := ctx.Deadline(); has {
		return handler(ctx, req)
	}
	limit := deadlineFor(req, info.FullMethod)
	if limit == 0 {
		return handler(ctx, req)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return handler(ctx, req)
}

// deadlineFor returns the default deadline of a call, 0 for none.
func deadlineFor(req any, fullMethod string) time.Duration {
	switch r := req.(type) {
	case *runtimeapi.PullImageRequest:
		return 0
	case *runtimeapi.ExecSyncRequest:
		if r.GetTimeout() <= 0 {
			return 0
		}
		return addTimeout(changeDeadline, seconds(r.GetTimeout()))
	case *runtimeapi.CheckpointContainerRequest:
		return addTimeout(changeDeadline, seconds(r.GetTimeout()))
	case *runtimeapi.StopContainerRequest:
		return addTimeout(changeDeadline, seconds(r.GetTimeout()))
	}
	if changes(fullMethod) {
		return changeDeadline
	}
	return readDeadline
}

// addTimeout adds what a request asks for to a deadline, without overflow.
func addTimeout(d, timeout time.Duration) time.Duration {
	if timeout > maxDuration-d {
		return maxDuration
	}
	return d + timeout
}

const maxDuration = time.Duration(1<<63 - 1)

// seconds converts a timeout of the CRI, which may be any int64, without
// overflow.
func seconds(n int64) time.Duration {
	if n > int64(maxDuration/time.Second) {
		return maxDuration
	}
	return time.Duration(n) * time.Second
}
