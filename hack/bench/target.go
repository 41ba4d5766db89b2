package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// callTimeout bounds one call; a runtime that needs longer has failed the measurement.
const callTimeout = 2 * time.Minute

// target is a runtime under measurement.
type target struct {
	name      string
	version   string
	processes []string // kinds as pss takes them, whose memory counts as the runtime's
	conn      *grpc.ClientConn
	runtime   runtimeapi.RuntimeServiceClient
	images    runtimeapi.ImageServiceClient
}

// connect parses NAME=SOCKET[,PROCESS…] and asks the runtime for its version.
func connect(ctx context.Context, spec string) (*target, error) {
	name, rest, ok := strings.Cut(spec, "=")
	parts := strings.Split(rest, ",")
	if !ok || name == "" || parts[0] == "" {
		return nil, fmt.Errorf("runtime %q: want NAME=SOCKET[,PROCESS…]", spec)
	}
	conn, err := grpc.NewClient(parts[0],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s at %s: %w", name, parts[0], err)
	}
	t := &target{
		name: name, processes: parts[1:], conn: conn,
		runtime: runtimeapi.NewRuntimeServiceClient(conn),
		images:  runtimeapi.NewImageServiceClient(conn),
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := t.runtime.Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("version of %s: %w", name, err)
	}
	t.version = v.RuntimeName + " " + v.RuntimeVersion
	return t, nil
}

func (t *target) close() { t.conn.Close() }

func (t *target) pull(ctx context.Context, ref string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*callTimeout)
	defer cancel()
	resp, err := t.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return "", err
	}
	return resp.ImageRef, nil
}

func (t *target) removeImage(ctx context.Context, ref string) error {
	_, err := t.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	return err
}
