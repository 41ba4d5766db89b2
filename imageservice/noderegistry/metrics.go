package noderegistry

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests  *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	transfers prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_node_registry_requests_total",
			Help: "Requests of other nodes for this node's images, by what was asked for and the HTTP status.",
		}, []string{"kind", "status"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_node_registry_sent_bytes_total",
			Help: "Bytes of images sent to other nodes.",
		}, []string{"kind"}),
		transfers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_node_registry_transfers",
			Help: "Blobs that are being sent to other nodes.",
		}),
	}
	r.MustRegister(m.requests, m.bytes, m.transfers)
	return m
}

func (m *metrics) observe(kind string, status int, sent int64) {
	m.requests.WithLabelValues(kind, strconv.Itoa(status)).Inc()
	m.bytes.WithLabelValues(kind).Add(float64(sent))
}
