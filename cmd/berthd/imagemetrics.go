package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-cri/berth/imageservice"
)

// imageMetrics are the metrics of pulls: totals, and how far each one is that runs,
// whoever began it.
type imageMetrics struct {
	images interface {
		Counters() imageservice.Counters
		Pulls() []imageservice.Pull
		Imports() []imageservice.Import
	}
	pulls, bytes, blobs, split, layers *prometheus.Desc
	fetched, size, imports             *prometheus.Desc
}

func newImageMetrics(images *imageservice.Service) *imageMetrics {
	desc := prometheus.NewDesc
	return &imageMetrics{
		images: images,
		pulls: desc("berth_image_pulls_total",
			"Pulls that have ended, by result: pulled, unchanged (the registry has what is here), failed.", []string{"result"}, nil),
		bytes: desc("berth_image_pull_bytes_total",
			"Bytes of layers as they are compressed, by where they came from: network, or resumed (an earlier transfer).", []string{"source"}, nil),
		blobs:  desc("berth_image_blobs_total", "Blobs of layers whose transfer was begun.", nil, nil),
		split:  desc("berth_image_blobs_split_total", "Blobs of layers that were fetched over several connections.", nil, nil),
		layers: desc("berth_image_layers_unpacked_total", "Layers that were unpacked.", nil, nil),
		fetched: desc("berth_image_pull_running_fetched_bytes",
			"Bytes of layers that a running pull has, by image.", []string{"image"}, nil),
		size: desc("berth_image_pull_running_size_bytes",
			"Bytes of layers that a running pull needs, without those that were here, by image.", []string{"image"}, nil),
		imports: desc("berth_image_import_files",
			"Files in the folders that are watched for images, by state: waiting, imported, failed.", []string{"state"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *imageMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.pulls, m.bytes, m.blobs, m.split, m.layers, m.fetched, m.size, m.imports} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *imageMetrics) Collect(ch chan<- prometheus.Metric) {
	total := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	c := m.images.Counters()
	// The parts were read one after the other: none may be less than nothing.
	total(m.pulls, c.Pulls-min(c.Pulls, c.PullErrors+c.Unchanged), "pulled")
	total(m.pulls, c.Unchanged, "unchanged")
	total(m.pulls, c.PullErrors, "failed")
	total(m.bytes, c.BlobBytes, "network")
	total(m.bytes, c.ResumedBytes, "resumed")
	total(m.blobs, c.Blobs)
	total(m.split, c.Split)
	total(m.layers, c.Layers)
	m.running(ch)
	m.imported(ch)
}

func (m *imageMetrics) imported(ch chan<- prometheus.Metric) {
	files := map[imageservice.ImportState]int{imageservice.ImportWaiting: 0, imageservice.ImportImported: 0, imageservice.ImportFailed: 0}
	for _, i := range m.images.Imports() {
		files[i.State]++
	}
	for state, n := range files {
		ch <- prometheus.MustNewConstMetric(m.imports, prometheus.GaugeValue, float64(n), string(state))
	}
}

func (m *imageMetrics) running(ch chan<- prometheus.Metric) {
	type state struct{ fetched, size int64 }
	images := map[string]state{}
	for _, p := range m.images.Pulls() {
		s := images[p.Ref] // the same image may be pulled with several credentials
		for _, l := range p.Layers {
			if !l.Shared {
				s.fetched += min(l.Fetched, l.Size)
				s.size += l.Size
			}
		}
		images[p.Ref] = s
	}
	for ref, s := range images {
		ch <- prometheus.MustNewConstMetric(m.fetched, prometheus.GaugeValue, float64(s.fetched), ref)
		ch <- prometheus.MustNewConstMetric(m.size, prometheus.GaugeValue, float64(s.size), ref)
	}
}
