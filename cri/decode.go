package cri

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	protobuf "google.golang.org/protobuf/proto"
)

// A message that cannot be decoded, such as one with a string that is not
// UTF-8, is an InvalidArgument here. gRPC itself calls it Internal, which a
// client takes for a fault of the runtime, and sends that before any
// interceptor or handler could say otherwise. So the methods of strictDecoding
// ask for a request in place of a message, and strictCodec, which knows it,
// keeps the error in it.

// request is a message to decode and what became of it.
type request struct {
	message any
	err     error
}

// strictDecoding returns a copy of desc whose methods answer InvalidArgument to
// a message that cannot be decoded. It needs a server with strictCodec.
func strictDecoding(desc *grpc.ServiceDesc) *grpc.ServiceDesc {
	strict := *desc
	strict.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		handler := m.Handler
		strict.Methods[i] = grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
				return handler(srv, ctx, func(message any) error {
					r := &request{message: message}
					if err := decode(r); err != nil {
						return err
					}
					return r.status()
				}, interceptor)
			},
		}
	}
	strict.Streams = make([]grpc.StreamDesc, len(desc.Streams))
	for i, s := range desc.Streams {
		handler := s.Handler
		s.Handler = func(srv any, stream grpc.ServerStream) error { return handler(srv, strictStream{stream}) }
		strict.Streams[i] = s
	}
	return &strict
}

func (r *request) status() error {
	if r.err == nil {
		return nil
	}
	var malformed *fieldError
	if errors.As(r.err, &malformed) {
		return asStatus(malformed)
	}
	return asStatus(fmt.Errorf("decode the request: %w: %w", r.err, errdefs.ErrInvalidArgument))
}

// strictStream is a stream of strictDecoding.
type strictStream struct{ grpc.ServerStream }

func (s strictStream) RecvMsg(m any) error {
	r := &request{message: m}
	if err := s.ServerStream.RecvMsg(r); err != nil {
		return err
	}
	return r.status()
}

// strictCodec is the codec for protocol buffers that also decodes into a request.
type strictCodec struct{ encoding.CodecV2 }

func newStrictCodec() strictCodec { return strictCodec{encoding.GetCodecV2(proto.Name)} }

func (c strictCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*request); ok {
		r.err = c.CodecV2.Unmarshal(data, r.message)
		if m, ok := r.message.(protobuf.Message); ok && r.err != nil {
			if path := findNotUTF8(m.ProtoReflect().Descriptor(), data.Materialize(), ""); path != "" {
				r.err = invalid(path, "is not UTF-8")
			}
		}
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}
