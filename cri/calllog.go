package cri

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
)

// logUnary writes one line per call: at level info, or warn if it failed, for
// calls that change something, at level debug for the others. The first are the
// node's audit: who asked for what, of which pod, and what became of it. Nothing of
// a request but names and IDs is logged; credentials and environments are in them.
func (s *Server) logUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := handler(ctx, req)
	level := callLevel(info.FullMethod, err)
	if s.logger.Enabled(ctx, level) {
		s.logCall(ctx, level, info.FullMethod, start, err, subject(ctx, req, resp))
	}
	return resp, err
}

// logStream writes the line of a streaming call when it ends, at the levels of logUnary.
func (s *Server) logStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := time.Now()
	err := handler(srv, stream)
	ctx, level := stream.Context(), callLevel(info.FullMethod, err)
	if s.logger.Enabled(ctx, level) {
		s.logCall(ctx, level, info.FullMethod, start, err, subject(ctx, nil, nil))
	}
	return err
}

func (s *Server) logCall(ctx context.Context, level slog.Level, fullMethod string, start time.Time, err error, subject []slog.Attr) {
	attrs := append([]slog.Attr{slog.String("method", methodName(fullMethod))}, subject...)
	attrs = append(attrs, slog.Duration("duration", time.Since(start)), slog.String("outcome", status.Code(err).String()))
	if agent := userAgent(ctx); agent != "" {
		attrs = append(attrs, slog.String("client", agent))
	}
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

// subject names what a call was about: what the request says, what the services
// have found out, and what the answer adds.
func subject(ctx context.Context, req, resp any) []slog.Attr {
	s := operation.From(ctx).Subject()
	if m, ok := resp.(interface{ GetPodSandboxId() string }); ok && m.GetPodSandboxId() != "" {
		s.SandboxID = m.GetPodSandboxId()
	}
	if m, ok := resp.(interface{ GetContainerId() string }); ok && m.GetContainerId() != "" {
		s.ContainerID = m.GetContainerId()
	}
	var imageID, handler string
	if m, ok := resp.(interface{ GetImageRef() string }); ok {
		imageID = m.GetImageRef()
	}
	if m, ok := req.(*runtimeapi.RunPodSandboxRequest); ok {
		handler = m.GetRuntimeHandler()
	}
	var attrs []slog.Attr
	for _, a := range [][2]string{
		{"namespace", s.Namespace}, {"pod", s.Pod}, {"uid", s.UID}, {"sandbox_id", s.SandboxID},
		{"container", s.Container}, {"container_id", s.ContainerID},
		{"image", s.Image}, {"image_id", imageID}, {"handler", handler},
	} {
		if a[1] != "" {
			attrs = append(attrs, slog.String(a[0], a[1]))
		}
	}
	return attrs
}
