package monitoring

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-cri/berth/operation"
)

// serveOperations lists what runs as `berth ops --all` does, for one who cannot
// reach the socket.
func serveOperations(w http.ResponseWriter, r *operation.Registry) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	writeOperations(w, r.Running(), time.Now())
}

func writeOperations(w io.Writer, all []operation.Info, now time.Time) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tAGE\tMETHOD\tPOD\tCONTAINER\tSTAGE\tFOR\tWAITS FOR")
	for _, info := range all {
		s := info.Subject
		pod := strings.Trim(s.Namespace+"/"+s.Pod, "/")
		if pod == "" {
			pod = s.SandboxID
		}
		container := s.Container
		if container == "" {
			container = s.ContainerID
		}
		steps := info.Steps
		if len(steps) == 0 {
			steps = []operation.Step{{Since: info.Began}}
		}
		for _, step := range steps {
			fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", info.ID, round(now.Sub(info.Began)), info.Method,
				pod, container, step.Stage, round(now.Sub(step.Since)), step.WaitsFor)
		}
	}
	table.Flush()
}

func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second / 10)
}

// slowAfter is the age from which an operation counts as slow.
const slowAfter = time.Second

// operationsCollector tells how many operations run and have for long.
type operationsCollector struct {
	registry     *operation.Registry
	slow, oldest *prometheus.Desc
}

// CollectOperations returns the metrics of a registry of operations.
func CollectOperations(r *operation.Registry) prometheus.Collector {
	return &operationsCollector{
		registry: r,
		slow: prometheus.NewDesc("berth_operations_slow",
			"Calls and background work that have run for more than a second, by method.", []string{"method"}, nil),
		oldest: prometheus.NewDesc("berth_operations_oldest_seconds",
			"Age in seconds of the oldest call or background work that has run for more than a second, by method.", []string{"method"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *operationsCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.slow
	ch <- c.oldest
}

// Collect implements prometheus.Collector.
func (c *operationsCollector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	slow, oldest := map[string]int{}, map[string]time.Duration{}
	for _, info := range c.registry.Running() {
		age := now.Sub(info.Began)
		if info.Standing || age < slowAfter {
			continue
		}
		slow[info.Method]++
		oldest[info.Method] = max(oldest[info.Method], age)
	}
	for method, n := range slow {
		ch <- prometheus.MustNewConstMetric(c.slow, prometheus.GaugeValue, float64(n), method)
		ch <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, oldest[method].Seconds(), method)
	}
}

// StartStages is a histogram of the stages of pods' starts; Observe adds to it.
type StartStages struct{ histogram *prometheus.HistogramVec }

// NewStartStages registers the histogram with r.
func NewStartStages(r prometheus.Registerer) *StartStages {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "berth_pod_start_stage_duration_seconds",
		Help: "Duration in seconds of the stages in which pods and their containers come up, by stage.",
		// From a file that is written to a pull.
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
	}, []string{"stage"})
	r.MustRegister(h)
	return &StartStages{h}
}

// Observe counts one stage.
func (s *StartStages) Observe(stage string, took time.Duration) {
	s.histogram.WithLabelValues(stage).Observe(took.Seconds())
}
