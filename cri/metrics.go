package cri

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// callMetrics counts and times the calls.
type callMetrics struct {
	handled  *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
}

// newCallMetrics registers the metrics with r, if there is one. sessions tells
// how many streaming sessions are open.
func newCallMetrics(r prometheus.Registerer, sessions func() int) (*callMetrics, error) {
	m := &callMetrics{
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_cri_requests_total",
			Help: "CRI calls that were answered, by method and gRPC code.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "berth_cri_request_duration_seconds",
			Help: "Duration of CRI calls in seconds, by method.",
			// From a List out of memory to a pull.
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"method"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_cri_requests_in_flight",
			Help: "CRI calls that run now, by method.",
		}, []string{"method"}),
	}
	if r == nil {
		return m, nil
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "berth_cri_streaming_sessions",
		Help: "Exec, attach and port-forward sessions that are open now.",
	}, func() float64 { return float64(sessions()) })
	for _, c := range []prometheus.Collector{m.handled, m.duration, m.inFlight, open} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *callMetrics) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	done := m.begin(info.FullMethod)
	resp, err := handler(ctx, req)
	done(err)
	return resp, err
}

func (m *callMetrics) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	done := m.begin(info.FullMethod)
	err := handler(srv, stream)
	done(err)
	return err
}

// begin counts a call as running; the function it returns counts its end.
func (m *callMetrics) begin(fullMethod string) func(error) {
	method := methodName(fullMethod)
	running := m.inFlight.WithLabelValues(method)
	running.Inc()
	start := time.Now()
	return func(err error) {
		running.Dec()
		m.duration.WithLabelValues(method).Observe(time.Since(start).Seconds())
		m.handled.WithLabelValues(method, status.Code(err).String()).Inc()
	}
}
