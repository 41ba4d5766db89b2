package cri

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
)

// operateUnary makes each call an operation, which lists it as long as it, or
// what it has begun, runs.
func (s *Server) operateUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, op := s.options.Operations.Begin(ctx, methodName(info.FullMethod), about(req), operation.Options{})
	resp, err := handler(ctx, req)
	op.End(err)
	return resp, err
}

// operateStream does the same for streaming calls. All but transfers, those about containers'
// files and those that stream a list last as long as their client likes.
func (s *Server) operateStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	method := methodName(info.FullMethod)
	standing := !strings.HasPrefix(method, "Stream") && !strings.HasPrefix(info.FullMethod, "/berth.v1.Transfers/") &&
		!strings.HasPrefix(info.FullMethod, "/berth.v1.Containers/")
	ctx, op := s.options.Operations.Begin(stream.Context(), method, operation.Subject{}, operation.Options{Standing: standing})
	err := handler(srv, &streamWith{stream, ctx})
	op.End(err)
	return err
}

// streamWith is a stream with another context.
type streamWith struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *streamWith) Context() context.Context { return s.ctx }

// about tells what a request is about, as far as it says so itself.
func about(req any) operation.Subject {
	var s operation.Subject
	of := func(md *runtimeapi.PodSandboxMetadata) {
		s.Namespace, s.Pod, s.UID = md.GetNamespace(), md.GetName(), md.GetUid()
	}
	switch m := req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		of(m.GetConfig().GetMetadata())
	case *runtimeapi.CreateContainerRequest:
		of(m.GetSandboxConfig().GetMetadata())
		s.Container = m.GetConfig().GetMetadata().GetName()
		s.Image = m.GetConfig().GetImage().GetImage()
	case *runtimeapi.PullImageRequest:
		of(m.GetSandboxConfig().GetMetadata())
		s.Image = m.GetImage().GetImage()
	case interface{ GetImage() *runtimeapi.ImageSpec }:
		s.Image = m.GetImage().GetImage()
	}
	if m, ok := req.(interface{ GetPodSandboxId() string }); ok {
		s.SandboxID = m.GetPodSandboxId()
	}
	if m, ok := req.(interface{ GetContainerId() string }); ok {
		s.ContainerID = m.GetContainerId()
	}
	return s
}

// userAgent is what the caller says it is.
func userAgent(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("user-agent"), " ")
}
