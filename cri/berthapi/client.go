package berthapi

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
)

// ImagesClient calls the service berth.v1.Images.
type ImagesClient struct {
	conn grpc.ClientConnInterface
}

// NewImagesClient returns a client on conn, which stays the caller's to close.
func NewImagesClient(conn grpc.ClientConnInterface) *ImagesClient {
	return &ImagesClient{conn: conn}
}

// PullProgress follows the pull of ref until ctx ends. A runtime that is not
// Berth answers the first Recv with codes.Unimplemented.
func (c *ImagesClient) PullProgress(ctx context.Context, ref string) (*ProgressStream, error) {
	msg, err := toStruct(progressRequest{Ref: ref})
	if err != nil {
		return nil, err
	}
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, pullProgressPath)
	if err != nil {
		return nil, fmt.Errorf("open the progress of %q: %w", ref, err)
	}
	if err := stream.SendMsg(msg); err != nil {
		return nil, fmt.Errorf("ask for the progress of %q: %w", ref, err)
	}
	if err := stream.CloseSend(); err != nil {
		return nil, fmt.Errorf("ask for the progress of %q: %w", ref, err)
	}
	return &ProgressStream{stream: stream}, nil
}

// ProgressStream is the progress of one pull.
type ProgressStream struct {
	stream grpc.ClientStream
}

// Recv waits for the next snapshot; io.EOF, unwrapped, says that the pull has
// ended.
func (p *ProgressStream) Recv() (Snapshot, error) {
	msg := &structpb.Struct{}
	if err := p.stream.RecvMsg(msg); err != nil {
		return Snapshot{}, err
	}
	var s Snapshot
	err := fromStruct(msg, &s)
	return s, err
}
