package runtimeservice

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// giveFile writes one more file of a cgroup.
func giveFile(t *testing.T, n *node, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.root, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sample is the value of a metric whose last labels are these; ok is false
// without one.
func sample(metrics []*runtimeapi.Metric, name string, labels ...string) (value uint64, ok bool) {
	for _, m := range metrics {
		if m.Name == name && slices.Equal(m.LabelValues[6:], labels) {
			return m.Value.GetValue(), true
		}
	}
	return 0, false
}

func TestPodMetrics(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	config := podConfig("web")
	config.Labels[podNameLabel], config.Labels[podNamespaceLabel] = "web-0", "shop"
	pod := mustRun(t, s, config)
	app, ended := mustStart(t, s, pod, "app"), mustStart(t, s, pod, "ended")
	n.monitor.exit(ended, monitor.Exit{})
	giveCgroup(t, n, "/kubepods/podweb/"+app, "2500000", "1000")
	giveCgroup(t, n, "/kubepods/podweb", "3000000", "1500")
	giveFile(t, n, "kubepods/podweb/"+app+"/cgroup.procs", "")
	giveFile(t, n, "kubepods/podweb/"+app+"/memory.events", "high 3\nmax 4\noom 0\noom_kill 2\n")
	giveFile(t, n, "kubepods/podweb/"+app+"/io.stat", "999:7 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=3 dios=1\n")

	all, err := s.PodSandboxMetrics(t.Context())
	if err != nil || len(all) != 1 || all[0].PodSandboxId != pod || len(all[0].ContainerMetrics) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	own := all[0].ContainerMetrics[0]
	if own.ContainerId != app {
		t.Errorf("metrics of container %s", own.ContainerId)
	}
	if got, want := own.Metrics[0].LabelValues[:6], []string{"/kubepods/podweb/" + app, app, "registry.local/app:v1", "app", "web-0", "shop"}; got[0] != want[0] || got[1] != want[1] || !slices.Equal(got[3:], want[3:]) {
		t.Errorf("labels %q", got)
	}
	if got, want := all[0].Metrics[0].LabelValues[:6], []string{"/kubepods/podweb", "", "", "", "web-0", "shop"}; !slices.Equal(got, want) {
		t.Errorf("the pod's labels %q, want %q", got, want)
	}
	for _, want := range []struct {
		name   string
		labels []string
		value  uint64
	}{
		{"container_cpu_usage_seconds_total", []string{"total"}, 2},
		{"container_memory_usage_bytes", nil, 1000},
		{"container_memory_working_set_bytes", nil, 900},
		{"container_oom_events_total", nil, 2},
		{"container_memory_events_high_total", nil, 3},
		{"container_memory_failcnt", nil, 4},
		{"container_fs_writes_bytes_total", []string{"999:7"}, 20},
		{"container_fs_reads_total", []string{"999:7"}, 1},
		{"container_blkio_device_usage_total", []string{"999:7", "999", "7", "Discard"}, 3},
		{"container_threads", nil, 3},
		{"container_memory_failures_total", []string{"pgmajfault", "hierarchy"}, 2},
	} {
		if got, ok := sample(own.Metrics, want.name, want.labels...); !ok || got != want.value {
			t.Errorf("%s%v is %d (%t), want %d", want.name, want.labels, got, ok, want.value)
		}
	}
	if got, _ := sample(all[0].Metrics, "container_memory_usage_bytes"); got != 1500 {
		t.Errorf("the pod uses %d", got)
	}
	// Statistics of the same second are those that the metrics were made of.
	giveCgroup(t, n, "/kubepods/podweb/"+app, "9000000", "9000")
	stats, err := s.ContainerStats(t.Context(), app)
	if err != nil || stats.Memory.UsageBytes.GetValue() != 1000 {
		t.Errorf("statistics read again: %v, %v", stats.GetMemory(), err)
	}
}

// Descriptors never change, and fit what they describe.
func TestMetricDescriptors(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	pod := mustRun(t, s, podConfig("web"))
	app := mustStart(t, s, pod, "app")
	giveCgroup(t, n, "/kubepods/podweb/"+app, "1", "1")
	descriptors := make(map[string]int)
	for _, d := range s.MetricDescriptors() {
		if _, twice := descriptors[d.Name]; twice || d.Help == "" {
			t.Errorf("descriptor %v", d)
		}
		descriptors[d.Name] = len(d.LabelKeys)
	}
	all, err := s.PodSandboxMetrics(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, m := range append(all[0].Metrics, all[0].ContainerMetrics[0].Metrics...) {
		if n, ok := descriptors[m.Name]; !ok || n != len(m.LabelValues) || m.Timestamp == 0 {
			t.Errorf("%v: %d labels described (%t)", m, n, ok)
		}
	}
	if again := s.MetricDescriptors(); len(again) != len(descriptors) {
		t.Errorf("%d descriptors, %d before", len(again), len(descriptors))
	}
}

// All who ask while a collection is under way get that one; a caller who goes
// away takes it from nobody.
func TestMetricsAreCollectedOnce(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	for _, name := range []string{"a", "b", "c"} {
		mustRun(t, s, podConfig(name))
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.PodSandboxMetrics(gone); err != nil && !errdefs.IsCanceled(err) {
		t.Errorf("a caller who has gone: %v", err)
	}
	results := make([][]*runtimeapi.PodSandboxMetrics, 8)
	var group sync.WaitGroup
	for i := range results {
		group.Go(func() {
			var err error
			if results[i], err = s.PodSandboxMetrics(t.Context()); err != nil || len(results[i]) != 3 {
				t.Errorf("%d pods, %v", len(results[i]), err)
			}
		})
	}
	group.Wait()
	collections := make(map[*runtimeapi.PodSandboxMetrics]bool)
	for _, r := range results {
		collections[r[0]] = true
	}
	if len(collections) > 2 { // a slow machine can need a second
		t.Errorf("%d collections", len(collections))
	}
}
