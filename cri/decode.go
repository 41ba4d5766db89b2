package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// strictDecoding returns a copy of desc whose handlers answer InvalidArgument
// to a message that cannot be decoded, such as a string that is not UTF-8. gRPC
// itself calls that Internal, which a client takes for a fault of the runtime.
func strictDecoding(desc *grpc.ServiceDesc) *grpc.ServiceDesc {
	strict := *desc
	strict.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		handler := m.Handler
		strict.Methods[i] = grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
				return handler(srv, ctx, func(msg any) error {
					return malformed(decode(msg))
				}, interceptor)
			},
		}
	}
	return &strict
}

// malformed makes the error of a failed decoding an InvalidArgument.
func malformed(err error) error {
	if err == nil {
		return nil
	}
	return asStatus(fmt.Errorf("decode the request: %s: %w", status.Convert(err).Message(), errdefs.ErrInvalidArgument))
}
