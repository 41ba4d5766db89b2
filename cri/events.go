package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventHandlers stream events.
type eventHandlers struct {
	events Events
	// stopping ends when the server is told to stop.
	stopping context.Context
}

// GetContainerEvents sends every event from now on. The headers go out at once,
// so that a client knows it is connected before anything happens. The stream
// ends with the client, with Unavailable when the server stops, and with
// ResourceExhausted when the client does not keep up.
func (h *eventHandlers) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return fmt.Errorf("begin the event stream: %w", err)
	}
	stop := context.AfterFunc(h.stopping, cancel)
	defer stop()
	err := h.events.StreamEvents(ctx, stream.Send)
	if h.stopping.Err() != nil && stream.Context().Err() == nil {
		return fmt.Errorf("stream events: the runtime is stopping: %w", errdefs.ErrUnavailable)
	}
	return err
}
