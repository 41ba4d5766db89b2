package cri

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A Stream call answers as its List twin does, page by page: the same checks, the
// same filter, the same snapshot, taken once before the first page goes out. So
// what changes meanwhile is in none of the pages or in all, and a client that
// reads slowly holds nothing but its own call. No items are no page, only the
// end of the stream.

const (
	// pageItems and pageBytes bound a page; one item alone may be larger. A
	// client that has not raised gRPC's own limit receives 4 MiB.
	pageItems = 500
	pageBytes = 1 << 20
)

// sendPages gives items to send, in order, at least one at a time.
func sendPages[T proto.Message](ctx context.Context, items []T, send func([]T) error) error {
	for len(items) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := pageLength(items)
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// pageLength is how many of the items, of which there is one at least, make the
// next page.
func pageLength[T proto.Message](items []T) int {
	size := 0
	for i, item := range items {
		size += proto.Size(item)
		if i > 0 && (size > pageBytes || i == pageItems) {
			return i
		}
	}
	return len(items)
}

// StreamPodSandboxes is ListPodSandbox in pages.
func (h *sandboxHandlers) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	list, err := h.ListPodSandbox(stream.Context(), &runtimeapi.ListPodSandboxRequest{Filter: r.GetFilter()})
	if err != nil {
		return err
	}
	return sendPages(stream.Context(), list.GetItems(), func(page []*runtimeapi.PodSandbox) error {
		return stream.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: page})
	})
}

// StreamContainers is ListContainers in pages.
func (h *containerHandlers) StreamContainers(r *runtimeapi.StreamContainersRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	list, err := h.ListContainers(stream.Context(), &runtimeapi.ListContainersRequest{Filter: r.GetFilter()})
	if err != nil {
		return err
	}
	return sendPages(stream.Context(), list.GetContainers(), func(page []*runtimeapi.Container) error {
		return stream.Send(&runtimeapi.StreamContainersResponse{Containers: page})
	})
}

// StreamContainerStats is ListContainerStats in pages.
func (h *statsHandlers) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	list, err := h.ListContainerStats(stream.Context(), &runtimeapi.ListContainerStatsRequest{Filter: r.GetFilter()})
	if err != nil {
		return err
	}
	return sendPages(stream.Context(), list.GetStats(), func(page []*runtimeapi.ContainerStats) error {
		return stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: page})
	})
}

// StreamPodSandboxStats is ListPodSandboxStats in pages.
func (h *statsHandlers) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	list, err := h.ListPodSandboxStats(stream.Context(), &runtimeapi.ListPodSandboxStatsRequest{Filter: r.GetFilter()})
	if err != nil {
		return err
	}
	return sendPages(stream.Context(), list.GetStats(), func(page []*runtimeapi.PodSandboxStats) error {
		return stream.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: page})
	})
}

// StreamImages is ListImages in pages.
func (s *imageServer) StreamImages(r *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	list, err := s.ListImages(stream.Context(), &runtimeapi.ListImagesRequest{Filter: r.GetFilter()})
	if err != nil {
		return err
	}
	return sendPages(stream.Context(), list.GetImages(), func(page []*runtimeapi.Image) error {
		return stream.Send(&runtimeapi.StreamImagesResponse{Images: page})
	})
}
