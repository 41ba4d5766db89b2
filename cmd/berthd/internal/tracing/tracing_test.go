package tracing

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/berth-cri/berth/operation"
)

// fakeCollector keeps the spans that it gets.
type fakeCollector struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]*tracev1.Span // by name
}

func (c *fakeCollector) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans[s.Name] = s
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func (c *fakeCollector) span(t *testing.T, name string) *tracev1.Span {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.spans[name]
	if s == nil {
		t.Fatalf("no span %q among %d", name, len(c.spans))
	}
	return s
}

func attributes(s *tracev1.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		all[a.Key] = a.Value.GetStringValue()
	}
	return all
}

func serve(t *testing.T, register func(*grpc.Server), options ...grpc.ServerOption) (address string, s *grpc.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = grpc.NewServer(options...)
	register(s)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String(), s
}

func collect(t *testing.T) (*fakeCollector, string) {
	c := &fakeCollector{spans: map[string]*tracev1.Span{}}
	address, _ := serve(t, func(s *grpc.Server) { collector.RegisterTraceServiceServer(s, c) })
	return c, address
}

func newTracer(t *testing.T, o Options) *Tracer {
	t.Helper()
	o.Insecure = true
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	tracer, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
)

// call makes a call with the caller's trace, handled by a registry of operations
// that has the tracer.
func call(t *testing.T, tracer *Tracer, traceparent string) {
	t.Helper()
	registry := operation.Registry{Trace: tracer.Begin}
	operate := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, op := registry.Begin(ctx, "Check", operation.Subject{Namespace: "shop", Pod: "web"}, operation.Options{})
		in, end := operation.Stage(ctx, "network", "berth.network.name", "bridge")
		_, endPlugin := operation.Stage(in, "plugin ADD")
		operation.About(in, func(s *operation.Subject) { s.SandboxID = "abc" })
		endPlugin(errors.New("no addresses left"))
		end(nil)
		resp, err := handler(ctx, req)
		op.End(err)
		return resp, err
	}
	address, server := serve(t, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, health.NewServer()) },
		grpc.StatsHandler(tracer.StatsHandler()), grpc.ChainUnaryInterceptor(operate))
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := t.Context()
	if traceparent != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", traceparent)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	// The call's span ends after its answer is sent.
	server.GracefulStop()
}

// The spans of a call continue the caller's trace, and its stages are nested in
// it, with what they are about and how they failed. Close sends them all.
func TestCallersTraceGoesOn(t *testing.T) {
	c, endpoint := collect(t)
	tracer := newTracer(t, Options{Endpoint: endpoint})
	call(t, tracer, "00-"+callersTrace+"-"+callersSpan+"-01")
	tracer.Close()

	server := c.span(t, "grpc.health.v1.Health/Check")
	network, plugin := c.span(t, "network"), c.span(t, "plugin ADD")
	if got := hex(server.TraceId); got != callersTrace {
		t.Errorf("trace is %s", got)
	}
	if got := hex(server.ParentSpanId); got != callersSpan {
		t.Errorf("parent of the call is %s", got)
	}
	if !bytes.Equal(network.ParentSpanId, server.SpanId) || !bytes.Equal(plugin.ParentSpanId, network.SpanId) {
		t.Error("stages are not nested in the call")
	}
	if a := attributes(server); a["k8s.pod.name"] != "web" || a["k8s.namespace.name"] != "shop" || a["berth.sandbox.id"] != "abc" {
		t.Errorf("attributes of the call: %v", a)
	}
	if a := attributes(network); a["berth.network.name"] != "bridge" {
		t.Errorf("attributes of the stage: %v", a)
	}
	if s := plugin.GetStatus(); s.GetCode() != tracev1.Status_STATUS_CODE_ERROR || s.GetMessage() != "no addresses left" {
		t.Errorf("status of the failed stage: %v", s)
	}
	if s := network.GetStatus(); s.GetCode() == tracev1.Status_STATUS_CODE_ERROR {
		t.Errorf("status of the other stage: %v", s)
	}
}

func hex(id []byte) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, x := range id {
		b.WriteByte(digits[x>>4])
		b.WriteByte(digits[x&15])
	}
	return b.String()
}

// What the caller does not sample is not traced, and without a caller's trace the
// rate decides.
func TestSampling(t *testing.T) {
	for _, test := range []struct {
		name, traceparent string
		rate, want        int
	}{
		{"caller does not sample", "00-" + callersTrace + "-" + callersSpan + "-00", 1_000_000, 0},
		{"no caller's trace, rate 0", "", 0, 0},
		{"no caller's trace, all", "", 1_000_000, 3},
	} {
		c, endpoint := collect(t)
		tracer := newTracer(t, Options{Endpoint: endpoint, SamplingRatePerMillion: test.rate})
		call(t, tracer, test.traceparent)
		tracer.Close()
		if n := len(c.spans); n != test.want {
			t.Errorf("%s: %d spans, want %d", test.name, n, test.want)
		}
	}
}

// Work in the background has traces of its own.
func TestBackground(t *testing.T) {
	c, endpoint := collect(t)
	tracer := newTracer(t, Options{Endpoint: endpoint, SamplingRatePerMillion: 1_000_000})
	registry := operation.Registry{Trace: tracer.Begin}
	ctx, op := registry.Begin(t.Context(), "background: release", operation.Subject{}, operation.Options{})
	_, end := operation.Stage(ctx, "unmount")
	end(nil)
	op.End(errors.New("busy"))
	tracer.Close()
	root, stage := c.span(t, "background: release"), c.span(t, "unmount")
	if len(root.ParentSpanId) != 0 || !bytes.Equal(stage.ParentSpanId, root.SpanId) || root.GetStatus().GetMessage() != "busy" {
		t.Errorf("root %v, stage %v", root, stage)
	}
}

// A collector that takes connections and never answers holds up neither
// operations nor, for long, the end of the daemon. It is complained about once.
func TestCollectorThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var log lockedBuffer
	tracer := newTracer(t, Options{Endpoint: l.Addr().String(), SamplingRatePerMillion: 1_000_000, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	done := make(chan struct{})
	go func() {
		defer close(done)
		registry := operation.Registry{Trace: tracer.Begin}
		for range 10_000 { // more than the queue holds
			ctx, op := registry.Begin(context.Background(), "x", operation.Subject{}, operation.Options{})
			_, end := operation.Stage(ctx, "a")
			end(nil)
			op.End(nil)
		}
		tracer.Close()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("something waits for the collector")
	}
	if !strings.Contains(log.String(), "send the last traces") {
		t.Errorf("log:\n%s", log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestComplainerDoesNotRepeatItself(t *testing.T) {
	var log lockedBuffer
	c := &complainer{log: slog.New(slog.NewTextHandler(&log, nil)), endpoint: "collector:4317"}
	for range 5 {
		c.Handle(errors.New("connection refused"))
	}
	if n := strings.Count(log.String(), "connection refused"); n != 1 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

func TestFilesThatAreNotThere(t *testing.T) {
	for name, o := range map[string]Options{
		"CA":          {CAFile: "/nonexistent/ca.pem"},
		"certificate": {CertFile: "/nonexistent/cert.pem", KeyFile: "/nonexistent/key.pem"},
	} {
		o.Endpoint = "127.0.0.1:1"
		if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "/nonexistent/") {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}
