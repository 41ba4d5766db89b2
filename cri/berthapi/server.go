package berthapi

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	imagesService      = "berth.v1.Images"
	pullProgressMethod = "PullProgress"
	pullProgressPath   = "/" + imagesService + "/" + pullProgressMethod
)

// ImagesServer answers the service berth.v1.Images.
type ImagesServer interface {
	// PullProgress calls send with snapshots of the pull of ref, one at once
	// and one after each change (several changes may share a snapshot), and
	// returns nil when that pull has ended, however it ended: whether it
	// succeeded is PullImage's answer. When no pull of ref runs it waits for
	// one to begin, because the client opens this stream beside its
	// PullImage and either may arrive first. It returns when ctx ends and
	// when send returns an error. An empty ref follows every pull.
	PullProgress(ctx context.Context, ref string, send func(Snapshot) error) error
}

// RegisterImages makes s serve berth.v1.Images by srv.
func RegisterImages(s grpc.ServiceRegistrar, srv ImagesServer) {
	s.RegisterService(imagesDesc(), srv)
}

func imagesDesc() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: imagesService,
		HandlerType: (*ImagesServer)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName:    pullProgressMethod,
			Handler:       servePullProgress,
			ServerStreams: true,
		}},
	}
}

func servePullProgress(srv any, stream grpc.ServerStream) error {
	msg := &structpb.Struct{}
	if err := stream.RecvMsg(msg); err != nil {
		return err
	}
	var req progressRequest
	if err := fromStruct(msg, &req); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	send := func(s Snapshot) error {
		out, err := toStruct(s)
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		return stream.SendMsg(out)
	}
	return srv.(ImagesServer).PullProgress(stream.Context(), req.Ref, send)
}
