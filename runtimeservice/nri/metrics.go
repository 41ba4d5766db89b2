package nri

import (
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what plugins do, and keeps the number of those that are connected.
type metrics struct {
	connected *atomic.Int64
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
}

var _ adaptation.Metrics = (*metrics)(nil)

func newMetrics(r prometheus.Registerer, connected *atomic.Int64) (*metrics, error) {
	m := &metrics{
		connected: connected,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_nri_requests_total",
			Help: "Requests that NRI plugins were given, by plugin, operation and outcome (ok or error).",
		}, []string{"plugin", "operation", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "berth_nri_request_duration_seconds",
			Help:    "Duration of requests to NRI plugins in seconds, by plugin and operation.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"plugin", "operation"}),
	}
	if r == nil {
		return m, nil
	}
	plugins := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "berth_nri_plugins",
		Help: "NRI plugins that are connected.",
	}, func() float64 { return float64(connected.Load()) })
	for _, c := range []prometheus.Collector{m.requests, m.duration, plugins} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) RecordPluginInvocation(plugin, operation string, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	m.requests.WithLabelValues(plugin, operation, outcome).Inc()
}

func (m *metrics) RecordPluginLatency(plugin, operation string, latency time.Duration) {
	m.duration.WithLabelValues(plugin, operation).Observe(latency.Seconds())
}

// RecordPluginAdjustments is not counted: the requests are.
func (m *metrics) RecordPluginAdjustments(string, string, *adaptation.ContainerAdjustment, int, int) {
}

func (m *metrics) UpdatePluginCount(n int) { m.connected.Store(int64(n)) }
