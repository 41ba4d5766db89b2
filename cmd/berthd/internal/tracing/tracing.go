// Package tracing sends what operations report as OpenTelemetry traces to a
// collector, over OTLP and gRPC. A trace begins with the caller's, as the kubelet
// sends it with its calls (W3C trace context); its spans are the operations and
// stages of package operation.
//
// A collector that is slow or away costs spans and nothing else: they wait in a
// queue that is bounded, and are sent in the background.
package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"
)

const (
	// sendTimeout bounds one attempt to send a batch.
	sendTimeout = 10 * time.Second
	// flushTimeout bounds the sending of what is left when the daemon stops.
	flushTimeout = 2 * time.Second
	// complainEvery is how often a collector that does not answer is logged.
	complainEvery = time.Minute
	million       = 1_000_000
)

// Options say where traces go. Endpoint is host:port of the collector.
type Options struct {
	Endpoint string
	// SamplingRatePerMillion is how many of a million operations are traced that
	// come without a trace; those with one are traced as it says.
	SamplingRatePerMillion int
	// Insecure is without TLS. Else CAFile, if set, takes the place of the
	// system's certificates, and CertFile and KeyFile are the daemon's own.
	Insecure                  bool
	CAFile, CertFile, KeyFile string
	// Version is the daemon's.
	Version string
	Logger  *slog.Logger
}

// Tracer makes traces. New makes it, Close sends what is left.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	log      *slog.Logger
}

// New makes a Tracer. It does not wait for the collector, which need not be there.
// What the files hold is read here.
func New(ctx context.Context, o Options) (*Tracer, error) {
	client := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(o.Endpoint), otlptracegrpc.WithTimeout(sendTimeout)}
	if o.Insecure {
		client = append(client, otlptracegrpc.WithInsecure())
	} else {
		config, err := o.tls()
		if err != nil {
			return nil, err
		}
		client = append(client, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(config)))
	}
	exporter, err := otlptracegrpc.New(ctx, client...)
	if err != nil {
		return nil, fmt.Errorf("make the exporter of traces to %q: %w", o.Endpoint, err)
	}
	attributes := []attribute.KeyValue{
		attribute.String("service.name", "berthd"), attribute.String("service.version", o.Version),
	}
	if host, err := os.Hostname(); err == nil {
		attributes = append(attributes, attribute.String("host.name", host))
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attributes...)),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(float64(o.SamplingRatePerMillion)/million))),
	)
	// The library has one handler for errors of all its exporters.
	otel.SetErrorHandler(&complainer{log: o.Logger, endpoint: o.Endpoint})
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/berth-cri/berth"), log: o.Logger}, nil
}

func (o Options) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read certificates of the collector: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read certificates of the collector: %q has none in PEM", o.CAFile)
		}
	}
	if o.CertFile != "" {
		own, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificate for the collector: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

// Close sends what is left, as far as that is possible within a short time.
func (t *Tracer) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Warn("send the last traces", "error", err)
	}
}

// StatsHandler takes up the traces of the callers of a gRPC server.
func (t *Tracer) StatsHandler() stats.Handler {
	return otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		// The daemon has metrics of its own.
		otelgrpc.WithMeterProvider(noop.NewMeterProvider()),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool { return !strings.HasPrefix(info.FullMethodName, "/berth.v1.") }),
	)
}

// complainer logs that traces cannot be sent, and not again for a while.
type complainer struct {
	log      *slog.Logger
	endpoint string
	last     atomic.Int64
}

// Handle implements otel.ErrorHandler.
func (c *complainer) Handle(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	now, last := time.Now().UnixNano(), c.last.Load()
	if last != 0 && time.Duration(now-last) < complainEvery || !c.last.CompareAndSwap(last, now) {
		return
	}
	c.log.Warn("traces are not sent; nothing waits for them", "endpoint", c.endpoint, "error", err)
}
