package cri

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// logUnary writes one line per call: at level info, or warn if it failed, for
// calls that change something, at level debug for the others. Nothing of a
// request but names and IDs is logged; credentials and environments are in them.
func (s *Server) logUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := handler(ctx, req)
	level := callLevel(info.FullMethod, err)
	if s.logger.Enabled(ctx, level) {
		s.logCall(ctx, level, info.FullMethod, start, err, append(subject(req), subject(resp)...))
	}
	return resp, err
}

// logStream writes the line of a streaming call when it ends.
func (s *Server) logStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := time.Now()
	err := handler(srv, stream)
	s.logCall(stream.Context(), slog.LevelDebug, info.FullMethod, start, err, nil)
	return err
}

func (s *Server) logCall(ctx context.Context, level slog.Level, fullMethod string, start time.Time, err error, subject []slog.Attr) {
	attrs := append([]slog.Attr{slog.String("method", methodName(fullMethod))}, subject...)
	attrs = append(attrs, slog.Duration("duration", time.Since(start)), slog.String("outcome", status.Code(err).String()))
	if err != nil {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
	}
	s.logger.LogAttrs(ctx, level, "CRI call", attrs...)
}

func callLevel(fullMethod string, err error) slog.Level {
	code := status.Code(err)
	switch {
	case !changes(fullMethod) || code == codes.Unimplemented:
		return slog.LevelDebug
	case err != nil:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// subject names what a request or response is about.
func subject(msg any) []slog.Attr {
	var attrs []slog.Attr
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	switch m := msg.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		md := m.GetConfig().GetMetadata()
		add("namespace", md.GetNamespace())
		add("pod", md.GetName())
		add("uid", md.GetUid())
		add("handler", m.GetRuntimeHandler())
		return attrs
	case *runtimeapi.CreateContainerRequest:
		add("namespace", m.GetSandboxConfig().GetMetadata().GetNamespace())
		add("pod", m.GetSandboxConfig().GetMetadata().GetName())
		add("container", m.GetConfig().GetMetadata().GetName())
		add("image", m.GetConfig().GetImage().GetImage())
	case interface{ GetImage() *runtimeapi.ImageSpec }:
		add("image", m.GetImage().GetImage())
	}
	if m, ok := msg.(interface{ GetPodSandboxId() string }); ok && m != nil {
		add("sandbox_id", m.GetPodSandboxId())
	}
	if m, ok := msg.(interface{ GetContainerId() string }); ok {
		add("container_id", m.GetContainerId())
	}
	if m, ok := msg.(interface{ GetImageRef() string }); ok {
		add("image_id", m.GetImageRef())
	}
	return attrs
}
