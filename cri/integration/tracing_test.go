package integration

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// otlpCollector keeps the spans that it gets.
type otlpCollector struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracev1.Span
}

func (c *otlpCollector) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			c.spans = append(c.spans, ss.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// within finds the span of that name below another.
func (c *otlpCollector) within(parent *tracev1.Span, name string) *tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Name == name && (parent == nil || bytes.Equal(s.ParentSpanId, parent.SpanId)) {
			return s
		}
	}
	return nil
}

func attributesOf(s *tracev1.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		all[a.Key] = a.Value.GetStringValue()
	}
	return all
}

const (
	callersTrace = "\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c"
	callersSpan  = "\xb7\xad\x6b\x71\x69\x20\x33\x31"
)

// The kubelet's trace goes on through the sandbox, the network's plugins, the
// image and the monitor, and is sent before the daemon ends.
func TestTraces(t *testing.T) {
	c := &otlpCollector{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, c)
	go server.Serve(l)
	defer server.Stop()
	d := ownDaemon(t, fmt.Sprintf("tracing: {endpoint: %q, insecure: true}\n", l.Addr()))

	conn, err := grpc.NewClient("unix://"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	runtime, images := runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", fmt.Sprintf("00-%x-%x-01", callersTrace, callersSpan))
	config := podConfig(t)
	run, err := runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: busybox}, SandboxConfig: config}); err != nil {
		t.Fatal(err)
	}
	create, err := runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: run.PodSandboxId, SandboxConfig: config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: busybox}, Command: []string{"/nonexistent"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: create.ContainerId}); err == nil {
		t.Error("a command that does not exist was started")
	}
	(&pod{t, d, run.PodSandboxId, config}).remove()
	d.end(t, syscall.SIGTERM) // sends what is left
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}

	for _, path := range [][]string{
		{"runtime.v1.RuntimeService/RunPodSandbox", "namespaces"},
		{"runtime.v1.RuntimeService/RunPodSandbox", "network", "network plugin bridge ADD"},
		{"runtime.v1.ImageService/PullImage", "fetch layers", "layer"},
		{"runtime.v1.RuntimeService/CreateContainer", "mount"},
		{"runtime.v1.RuntimeService/StartContainer", "start", "monitor start"},
	} {
		var at *tracev1.Span
		for i, name := range path {
			span := c.within(at, name)
			if span == nil {
				t.Errorf("no span %q in %q", name, path[:i])
				break
			}
			if string(span.TraceId) != callersTrace {
				t.Errorf("span %q is of trace %x", name, span.TraceId)
			}
			if i == 0 && string(span.ParentSpanId) != callersSpan {
				t.Errorf("span %q has the parent %x", name, span.ParentSpanId)
			}
			at = span
		}
	}
	if call := c.within(nil, "runtime.v1.RuntimeService/StartContainer"); call != nil {
		a := attributesOf(call)
		if a["k8s.pod.name"] != config.Metadata.Name || a["k8s.container.name"] != "main" || a["container.id"] != create.ContainerId || a["berth.sandbox.id"] != run.PodSandboxId {
			t.Errorf("attributes of the failed start: %v", a)
		}
	}
	if start := c.within(nil, "monitor start"); start != nil && start.GetStatus().GetCode() != tracev1.Status_STATUS_CODE_ERROR {
		t.Errorf("status of the failed start: %v", start.GetStatus())
	}
	if s := c.within(nil, "network"); s != nil && s.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR {
		t.Errorf("status of the network: %v", s.GetStatus())
	}
}
