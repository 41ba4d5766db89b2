package cri

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventHandlers stream events.
type eventHandlers struct{ events Events }

// GetContainerEvents sends every event from now on. The headers go out once the
// subscription stands, so that a client that has them misses nothing. The stream
// ends with the client, with Unavailable when the server stops, and with
// ResourceExhausted when the client does not keep up.
func (h *eventHandlers) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	listening := func() error {
		if err := stream.SendHeader(metadata.MD{}); err != nil {
			return fmt.Errorf("begin the event stream: %w", err)
		}
		return nil
	}
	return h.events.StreamEvents(stream.Context(), listening, stream.Send)
}
