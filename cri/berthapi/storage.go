package berthapi

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	storageService  = "berth.v1.Storage"
	diskUsageMethod = "DiskUsage"
	diskUsagePath   = "/" + storageService + "/" + diskUsageMethod
	checkMethod     = "Check"
	checkPath       = "/" + storageService + "/" + checkMethod
)

// DiskItem is one thing that takes room on the disk.
type DiskItem struct {
	// Kind is image, layer, container, volume, blob, partial, ingest, damaged, record,
	// log or orphan.
	Kind string `json:"kind"`
	// ID is a digest, a container's ID, or a path.
	ID string `json:"id"`
	// Images are the names of those that a layer or blob belongs to.
	Images []string `json:"images,omitempty"`
	// Shared says that several images have it.
	Shared bool `json:"shared,omitempty"`
	// Outside says that it does not lie below the root directory, as logs do not.
	Outside bool      `json:"outside,omitempty"`
	Bytes   uint64    `json:"bytes"`
	Inodes  uint64    `json:"inodes"`
	At      time.Time `json:"at,omitzero"`
}

// Filesystem is one that Berth's directories are on.
type Filesystem struct {
	// Directories are Berth's.
	Directories []string `json:"directories"`
	Size        uint64   `json:"size"`
	Available   uint64   `json:"available"`
}

// DiskUsageRequest asks for everything.
type DiskUsageRequest struct{}

// DiskUsage is what takes how much room, the largest first.
type DiskUsage struct {
	At          time.Time    `json:"at"`
	Items       []DiskItem   `json:"items"`
	Filesystems []Filesystem `json:"filesystems"`
}

// CheckRequest names images, or none for all.
type CheckRequest struct {
	Images []string `json:"images,omitempty"`
	Repair bool     `json:"repair,omitempty"`
	// Quick compares layers with their inventories only, and not with their blobs.
	Quick bool `json:"quick,omitempty"`
}

// Finding is what a check says of one thing.
type Finding struct {
	// Kind is image, layer or blob.
	Kind   string   `json:"kind"`
	ID     string   `json:"id"`
	Images []string `json:"images,omitempty"`
	// State is intact, damaged, repaired or unverified.
	State    string   `json:"state"`
	Detail   string   `json:"detail,omitempty"`
	Problems []string `json:"problems,omitempty"`
	Bytes    uint64   `json:"bytes"`
}

// StorageServer answers the service berth.v1.Storage. Check sends what it finds as it
// finds it, and returns nil when it is through; an image that is not there is
// errdefs.ErrNotFound.
type StorageServer interface {
	DiskUsage(ctx context.Context, req DiskUsageRequest) (DiskUsage, error)
	Check(ctx context.Context, req CheckRequest, send func(Finding) error) error
}

// RegisterStorage makes s serve berth.v1.Storage by srv.
func RegisterStorage(s grpc.ServiceRegistrar, srv StorageServer) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: storageService,
		HandlerType: (*StorageServer)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: diskUsageMethod, Handler: serveDiskUsage}},
		Streams:     []grpc.StreamDesc{{StreamName: checkMethod, Handler: serveCheck, ServerStreams: true}},
	}, srv)
}

func serveDiskUsage(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	in := &structpb.Struct{}
	if err := decode(in); err != nil {
		return nil, err
	}
	handle := func(ctx context.Context, _ any) (any, error) {
		usage, err := srv.(StorageServer).DiskUsage(ctx, DiskUsageRequest{})
		if err != nil {
			return nil, err
		}
		return toStruct(usage)
	}
	if interceptor == nil {
		return handle(ctx, in)
	}
	return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: diskUsagePath}, handle)
}

func serveCheck(srv any, stream grpc.ServerStream) error {
	msg := &structpb.Struct{}
	if err := stream.RecvMsg(msg); err != nil {
		return err
	}
	var req CheckRequest
	if err := fromStruct(msg, &req); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return srv.(StorageServer).Check(stream.Context(), req, func(f Finding) error {
		out, err := toStruct(f)
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		return stream.SendMsg(out)
	})
}

// StorageClient calls the service berth.v1.Storage. A runtime that is not Berth answers
// codes.Unimplemented.
type StorageClient struct {
	conn grpc.ClientConnInterface
}

// NewStorageClient returns a client on conn, which stays the caller's to close.
func NewStorageClient(conn grpc.ClientConnInterface) *StorageClient {
	return &StorageClient{conn: conn}
}

// DiskUsage tells what takes how much room.
func (c *StorageClient) DiskUsage(ctx context.Context) (DiskUsage, error) {
	var usage DiskUsage
	out := &structpb.Struct{}
	if err := c.conn.Invoke(ctx, diskUsagePath, &structpb.Struct{}, out); err != nil {
		return usage, fmt.Errorf("ask for the usage of the disk: %w", err)
	}
	return usage, fromStruct(out, &usage)
}

// Check begins a check, which ends with ctx.
func (c *StorageClient) Check(ctx context.Context, req CheckRequest) (*CheckStream, error) {
	msg, err := toStruct(req)
	if err != nil {
		return nil, err
	}
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, checkPath)
	if err == nil {
		err = stream.SendMsg(msg)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		return nil, fmt.Errorf("ask for a check: %w", err)
	}
	return &CheckStream{stream: stream}, nil
}

// CheckStream is what a check finds.
type CheckStream struct {
	stream grpc.ClientStream
}

// Recv waits for the next finding; io.EOF, unwrapped, says that the check is through.
func (c *CheckStream) Recv() (Finding, error) {
	msg := &structpb.Struct{}
	if err := c.stream.RecvMsg(msg); err != nil {
		return Finding{}, err
	}
	var f Finding
	err := fromStruct(msg, &f)
	return f, err
}
