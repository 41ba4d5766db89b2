// Package client connects the command line to a CRI socket, turns the errors
// of the calls into ones that say what to do, and finds containers, pods and
// images by what a person types.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cri/berthapi"
)

// A List of a full node is larger than gRPC's default of 4 MiB.
const maxMessageSize = 64 << 20

// Client holds the services of one CRI socket.
type Client struct {
	Runtime    runtimeapi.RuntimeServiceClient
	Images     runtimeapi.ImageServiceClient
	Progress   *berthapi.ImagesClient
	Operations *berthapi.OperationsClient
	Transfers  *berthapi.TransfersClient
	Storage    *berthapi.StorageClient
	Containers *berthapi.ContainersClient

	conn *grpc.ClientConn
}

// Dial connects to address, a path or a unix:// URL. It tries the socket once
// before it returns, so that a socket that is missing, dead or forbidden is
// reported as such and not as the deadline of the first call. timeout bounds
// each call that answers from memory; the others take as long as they need.
func Dial(address string, timeout time.Duration) (*Client, error) {
	path, err := socketPath(address)
	if err != nil {
		return nil, err
	}
	if err := probe(path); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix://"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageSize)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithUnaryInterceptor(unaryErrors(timeout)),
		grpc.WithStreamInterceptor(streamErrors),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %q: %w", address, err)
	}
	return &Client{
		Runtime:    runtimeapi.NewRuntimeServiceClient(conn),
		Images:     runtimeapi.NewImageServiceClient(conn),
		Progress:   berthapi.NewImagesClient(conn),
		Operations: berthapi.NewOperationsClient(conn),
		Transfers:  berthapi.NewTransfersClient(conn),
		Storage:    berthapi.NewStorageClient(conn),
		Containers: berthapi.NewContainersClient(conn),
		conn:       conn,
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

func socketPath(address string) (string, error) {
	path := strings.TrimPrefix(address, "unix://")
	if !strings.HasPrefix(path, "/") {
		return "", &hinted{
			err:  fmt.Errorf("address %q is neither an absolute path nor a unix:// URL", address),
			hint: "write it like unix:///run/berth/berth.sock",
		}
	}
	return path, nil
}

func probe(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return socketError(path, err)
	}
	return conn.Close()
}

func socketError(path string, err error) error {
	err = fmt.Errorf("connect to %s: %w", path, cause(err))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &hinted{err: err, hint: "is berthd running? Start it, or name its socket with --address or BERTH_ADDRESS"}
	case errors.Is(err, fs.ErrPermission):
		return &hinted{err: err, hint: "the socket belongs to root: run berth as root (sudo berth …)"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &hinted{err: err, hint: "the socket is there but nothing listens on it: berthd has ended, look at its log and start it again"}
	}
	return err
}

// cause drops net's "dial unix PATH: connect:" before the error number: the
// path is named once already.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// slow names the calls whose duration depends on a registry, a network plugin
// or a container's own behaviour; they get no deadline here.
var slow = map[string]bool{
	runtimeapi.RuntimeService_CheckpointContainer_FullMethodName: true,
	runtimeapi.RuntimeService_CheckpointPod_FullMethodName:       true,
	runtimeapi.RuntimeService_RestorePod_FullMethodName:          true,
	runtimeapi.ImageService_PullImage_FullMethodName:             true,
	runtimeapi.ImageService_RemoveImage_FullMethodName:           true,
	runtimeapi.RuntimeService_RunPodSandbox_FullMethodName:       true,
	runtimeapi.RuntimeService_StopPodSandbox_FullMethodName:      true,
	runtimeapi.RuntimeService_RemovePodSandbox_FullMethodName:    true,
	runtimeapi.RuntimeService_CreateContainer_FullMethodName:     true,
	runtimeapi.RuntimeService_StartContainer_FullMethodName:      true,
	runtimeapi.RuntimeService_StopContainer_FullMethodName:       true,
	runtimeapi.RuntimeService_RemoveContainer_FullMethodName:     true,
	runtimeapi.RuntimeService_ExecSync_FullMethodName:            true,
}

func unaryErrors(timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if !slow[method] && timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		var header, trailer metadata.MD
		opts = append(opts, grpc.Header(&header), grpc.Trailer(&trailer))
		err := fromRPC(invoke(ctx, method, req, reply, cc, opts...))
		if e, ok := err.(*rpcError); ok {
			e.answered = header.Len()+trailer.Len() > 0
		}
		return err
	}
}

func streamErrors(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := stream(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, fromRPC(err)
	}
	return clientStream{s}, nil
}

type clientStream struct{ grpc.ClientStream }

func (s clientStream) RecvMsg(m any) error { return fromRPC(s.ClientStream.RecvMsg(m)) }
