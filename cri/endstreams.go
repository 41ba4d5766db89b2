package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
)

// endStream gives a streaming call a context that also ends when the server is
// told to stop: such a call has no end of its own, and a graceful stop waits for
// it. It is Unavailable then, so that a client comes back.
func (s *Server) endStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	stop := context.AfterFunc(s.stopping, cancel)
	defer stop()
	err := handler(srv, endingStream{stream, ctx})
	if s.stopping.Err() != nil && stream.Context().Err() == nil {
		return fmt.Errorf("%s: the runtime is stopping: %w", methodName(info.FullMethod), errdefs.ErrUnavailable)
	}
	return err
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }
