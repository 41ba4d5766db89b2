// Package podmetrics turns what was measured of pods and containers into the
// metrics of CRI, under the names and with the labels that the kubelet's own
// cAdvisor gives them, so that dashboards need no change.
//
// CRI carries whole numbers. Metrics in seconds are therefore whole seconds,
// rounded down, and a limit that is none is 0.
package podmetrics

import (
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/stats"
)

// Labels are what every metric has. Of a pod, Name, Image and Container are empty.
type Labels struct {
	// ID is the path of the cgroup, Name the container's ID.
	ID, Name, Image string
	// Container, Pod and Namespace are the names that Kubernetes gave.
	Container, Pod, Namespace string
}

// labelKeys are the keys of Labels.values, in that order.
var labelKeys = []string{"id", "name", "image", "container", "pod", "namespace"}

func (l Labels) values() []string {
	return []string{l.ID, l.Name, l.Image, l.Container, l.Pod, l.Namespace}
}

// Subject is a pod or a container and what was measured of it.
type Subject struct {
	Labels Labels
	// Created and Started may be the same.
	Created, Started time.Time
	// Usage has Details.
	Usage     stats.Usage
	Processes *stats.Processes
	// Interfaces are a pod's; none of one on the node's network.
	Interfaces []stats.Interface
	// Filesystem is a container's.
	Filesystem *Filesystem
}

// Filesystem is the writable layer of a container and the file system it is on.
type Filesystem struct {
	Device             string
	Used, Limit        uint64 // bytes
	Inodes, InodesFree uint64
}

// metric is one of the metrics: its descriptor, and how its samples are made.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	labels     []string // beside labelKeys
	// needs tells whether a node can have it; nil is always.
	needs  func(stats.Features) bool
	sample func(*Subject, sampler)
}

// sampler takes a value, with the values of metric.labels.
type sampler func(value uint64, labels ...string)

// Set is the metrics of a node. It never changes.
type Set struct {
	metrics     []metric
	descriptors []*runtimeapi.MetricDescriptor
}

// New returns the metrics that a node with these features has.
func New(features stats.Features) *Set {
	s := &Set{}
	for _, m := range slices.Concat(cpuMetrics, memoryMetrics, diskMetrics, hugepageMetrics, networkMetrics, processMetrics, pressureMetrics, specMetrics) {
		if m.needs != nil && !m.needs(features) {
			continue
		}
		s.metrics = append(s.metrics, m)
		s.descriptors = append(s.descriptors, &runtimeapi.MetricDescriptor{
			Name: m.name, Help: m.help, LabelKeys: slices.Concat(labelKeys, m.labels),
		})
	}
	return s
}

// Descriptors are shared and must not be changed.
func (s *Set) Descriptors() []*runtimeapi.MetricDescriptor { return s.descriptors }

// Metrics are the samples of a subject, with the time of its measurement. They
// share their labels.
func (s *Set) Metrics(subject *Subject) []*runtimeapi.Metric {
	base := slices.Clip(subject.Labels.values())
	at := subject.Usage.Time.UnixNano()
	all := make([]*runtimeapi.Metric, 0, len(s.metrics)+8)
	// Two allocations in place of two for each sample.
	type sample struct {
		metric runtimeapi.Metric
		value  runtimeapi.UInt64Value
	}
	var room []sample
	for i := range s.metrics {
		m := &s.metrics[i]
		m.sample(subject, func(value uint64, labels ...string) {
			if len(room) == 0 {
				room = make([]sample, len(s.metrics))
			}
			next := &room[0]
			room = room[1:]
			next.value.Value = value
			next.metric.Name = m.name
			next.metric.Timestamp = at
			next.metric.MetricType = m.kind
			next.metric.LabelValues = base
			if len(labels) > 0 {
				next.metric.LabelValues = append(base, labels...)
			}
			next.metric.Value = &next.value
			all = append(all, &next.metric)
		})
	}
	return all
}

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

// simple is a metric with one sample for each subject.
func simple(name, help string, kind runtimeapi.MetricType, value func(*stats.Usage) uint64) metric {
	return metric{name: name, help: help, kind: kind, sample: func(s *Subject, add sampler) { add(value(&s.Usage)) }}
}

func (m metric) on(needs func(stats.Features) bool) metric {
	m.needs = needs
	return m
}

func unified(f stats.Features) bool { return f.Unified }

// seconds are whole ones.
func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }

// limit is 0 for none.
func limit(n uint64) uint64 {
	if n == stats.NoLimit {
		return 0
	}
	return n
}
