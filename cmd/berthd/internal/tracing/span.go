package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/berth-cri/berth/operation"
)

// Begin returns the span of an operation: that of the call, which the gRPC server
// has begun and ends, or, of work in the background, the root of a new trace. It
// is nil where that is not sampled. It is made for operation.Registry.Trace.
func (t *Tracer) Begin(ctx context.Context, method string) operation.Span {
	of := trace.SpanFromContext(ctx)
	if of.SpanContext().IsValid() {
		if !of.IsRecording() {
			return nil
		}
		return &span{tracer: t.tracer, span: of, borrowed: true}
	}
	_, root := t.tracer.Start(ctx, method)
	if !root.IsRecording() {
		return nil
	}
	return &span{tracer: t.tracer, span: root}
}

// span is an operation.Span of OpenTelemetry.
type span struct {
	tracer trace.Tracer
	span   trace.Span
	// borrowed is a span that another ends.
	borrowed bool
}

var _ operation.Span = (*span)(nil)

// Child implements operation.Span.
func (s *span) Child(name string) operation.Span {
	_, child := s.tracer.Start(trace.ContextWithSpan(context.Background(), s.span), name)
	return &span{tracer: s.tracer, span: child}
}

// Set implements operation.Span.
func (s *span) Set(key, value string) { s.span.SetAttributes(attribute.String(key, value)) }

// End implements operation.Span.
func (s *span) End(err error) {
	if err != nil {
		s.span.SetStatus(codes.Error, err.Error())
	}
	if !s.borrowed {
		s.span.End()
	}
}
