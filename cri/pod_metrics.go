package cri

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metricsHandlers answer the calls about metrics of pods.
type metricsHandlers struct{ metrics Metrics }

// ListMetricDescriptors returns the same list each time.
func (h *metricsHandlers) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: h.metrics.MetricDescriptors()}, nil
}

// ListPodSandboxMetrics returns the metrics of all ready sandboxes.
func (h *metricsHandlers) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	metrics, err := h.metrics.PodSandboxMetrics(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: metrics}, nil
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in pages.
func (h *metricsHandlers) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	metrics, err := h.metrics.PodSandboxMetrics(stream.Context())
	if err != nil {
		return err
	}
	return sendPages(stream.Context(), metrics, func(page []*runtimeapi.PodSandboxMetrics) error {
		return stream.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: page})
	})
}
