package cri

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
)

// recoverUnary turns a panic of a handler into an Internal error, so that a
// fault in one call does not end the daemon.
func (s *Server) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(ctx, info.FullMethod, p)
		}
	}()
	return handler(ctx, req)
}

// recoverStream does the same for streaming calls.
func (s *Server) recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(stream.Context(), info.FullMethod, p)
		}
	}()
	return handler(srv, stream)
}

func (s *Server) panicked(ctx context.Context, method string, p any) error {
	s.logger.ErrorContext(ctx, "panic in a handler", "method", methodName(method),
		"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return fmt.Errorf("handle %s: panic: %v: %w", methodName(method), p, errdefs.ErrInternal)
}
