package main

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

const waitPoll = 500 * time.Millisecond

// waitExit waits until a container has ended and returns its status. A daemon
// that restarts meanwhile is waited for. A container that is removed meanwhile
// is an error of codes.NotFound.
func waitExit(ctx context.Context, c *client.Client, id string) (*runtimeapi.ContainerStatus, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	go notifyChanges(ctx, c, id, changed)
	for {
		resp, err := c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		switch {
		case err == nil && resp.Status.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED:
			return resp.Status, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && client.Code(err) != codes.Unavailable && client.Code(err) != codes.DeadlineExceeded:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		case <-time.After(waitPoll):
		}
	}
}

// notifyChanges sends to changed at each event of the container. It only makes
// waiting shorter, so where the runtime sends no events it just returns.
func notifyChanges(ctx context.Context, c *client.Client, id string, changed chan<- struct{}) {
	stream, err := c.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	for err == nil {
		var event *runtimeapi.ContainerEventResponse
		if event, err = stream.Recv(); err == nil && event.ContainerId == id {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}
