package integration

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// values are the values of a metric by its labels beside those that all have,
// with commas between.
func values(t *testing.T, descriptors []*runtimeapi.MetricDescriptor, metrics []*runtimeapi.Metric, name string) map[string]uint64 {
	t.Helper()
	found := make(map[string]uint64)
	for _, m := range metrics {
		if m.Name != name {
			continue
		}
		extra := strings.Join(m.LabelValues[baseLabels(t, descriptors):], ",")
		if _, twice := found[extra]; twice {
			t.Errorf("%s{%s} is there twice", name, extra)
		}
		found[extra] = m.Value.GetValue()
	}
	return found
}

// baseLabels is how many labels every metric has.
func baseLabels(t *testing.T, descriptors []*runtimeapi.MetricDescriptor) int {
	t.Helper()
	n := len(descriptors[0].LabelKeys)
	for _, d := range descriptors {
		n = min(n, len(d.LabelKeys))
	}
	return n
}

// checkMetrics sees to it that each sample has a descriptor and as many labels.
func checkMetrics(t *testing.T, descriptors []*runtimeapi.MetricDescriptor, metrics []*runtimeapi.Metric, labels map[string]string) {
	t.Helper()
	for _, m := range metrics {
		i := slices.IndexFunc(descriptors, func(d *runtimeapi.MetricDescriptor) bool { return d.Name == m.Name })
		if i < 0 {
			t.Errorf("%s has no descriptor", m.Name)
			continue
		}
		if len(m.LabelValues) != len(descriptors[i].LabelKeys) || m.Timestamp <= 0 || m.Value == nil {
			t.Errorf("%v does not fit %v", m, descriptors[i])
			continue
		}
		for key, want := range labels {
			if got := m.LabelValues[slices.Index(descriptors[i].LabelKeys, key)]; got != want {
				t.Errorf("%s: label %s is %q, want %q", m.Name, key, got, want)
			}
		}
	}
}

func (d *daemon) metricsOf(t *testing.T, p *pod) *runtimeapi.PodSandboxMetrics {
	t.Helper()
	all, err := d.runtime.ListPodSandboxMetrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.PodSandboxId == p.id {
			return m
		}
	}
	return nil
}

func TestMetrics(t *testing.T) {
	descriptors, err := shared.runtime.ListMetricDescriptors(t.Context())
	if err != nil || len(descriptors) == 0 {
		t.Fatalf("%v, %v", descriptors, err)
	}
	for _, d := range descriptors {
		if d.Help == "" || !slices.Equal(d.LabelKeys[:6], []string{"id", "name", "image", "container", "pod", "namespace"}) {
			t.Errorf("descriptor %v", d)
		}
	}
	p := runPod(t)
	c := p.run(
		shell("head -c 5000000 /dev/zero > /written; sleep 1000 & exec 3</etc/passwd; while :; do :; done"),
		resources(func(r *runtimeapi.LinuxContainerResources) {
			r.CpuPeriod, r.CpuQuota, r.MemoryLimitInBytes = 100000, 80000, 64<<20
		}),
	)
	var m *runtimeapi.PodSandboxMetrics
	eventually(t, "a second of CPU time is counted, and the layer measured", func() bool {
		if m = shared.metricsOf(t, p); m == nil || len(m.ContainerMetrics) != 1 {
			return false
		}
		own := m.ContainerMetrics[0].Metrics
		return values(t, descriptors, own, "container_cpu_usage_seconds_total")["total"] >= 1 && fileSystemUse(values(t, descriptors, own, "container_fs_usage_bytes")) >= 5000000
	})
	same(t, "container", m.ContainerMetrics[0].ContainerId, c.id)
	own := m.ContainerMetrics[0].Metrics
	checkMetrics(t, descriptors, m.Metrics, map[string]string{"pod": p.config.Metadata.Name, "namespace": p.config.Metadata.Namespace, "container": "", "name": ""})
	checkMetrics(t, descriptors, own, map[string]string{"pod": p.config.Metadata.Name, "container": c.conf.Metadata.Name, "name": c.id})

	of := func(name string) map[string]uint64 { t.Helper(); return values(t, descriptors, own, name) }
	same(t, "CPU quota", of("container_spec_cpu_quota")[""], 80000)
	same(t, "memory limit", of("container_spec_memory_limit_bytes")[""], 64<<20)
	same(t, "processes", of("container_processes")[""], 2)
	same(t, "threads", of("container_threads")[""], 2)
	// Three each, and the shell's other one.
	if n := of("container_file_descriptors")[""]; n < 7 {
		t.Errorf("%d file descriptors", n)
	}
	for _, name := range []string{"container_cpu_cfs_periods_total", "container_memory_working_set_bytes", "container_memory_rss", "container_start_time_seconds", "container_last_seen", "container_memory_max_usage_bytes"} {
		if of(name)[""] == 0 {
			t.Errorf("%s is %v", name, of(name))
		}
	}
	if of("container_memory_failures_total")["pgfault,container"] == 0 || of("container_ulimits_soft")["max_open_files"] == 0 {
		t.Errorf("page faults %v, limits %v", of("container_memory_failures_total"), of("container_ulimits_soft"))
	}
	network := values(t, descriptors, m.Metrics, "container_network_receive_packets_total")
	if _, ok := network["eth0"]; !ok || len(network) != 1 {
		t.Errorf("the network's packets are %v", network)
	}
	// Each metric that the kernel can tell is told, but for disks not used.
	for _, d := range descriptors {
		if strings.Contains(d.Name, "_fs_read") || strings.Contains(d.Name, "_fs_write") || strings.Contains(d.Name, "_blkio_") {
			continue
		}
		if len(of(d.Name)) == 0 && len(values(t, descriptors, m.Metrics, d.Name)) == 0 {
			t.Errorf("%s has no sample", d.Name)
		}
	}
}

func fileSystemUse(byDevice map[string]uint64) uint64 {
	for _, n := range byDevice {
		return n
	}
	return 0
}

// All who ask at the same time get one collection.
func TestMetricsAreCollectedOnceForAll(t *testing.T) {
	p := runPod(t, hostNetwork)
	p.run()
	const callers = 8
	times := make([]int64, callers)
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			if i%2 == 0 {
				all, err := shared.runtime.ListPodSandboxMetrics(t.Context())
				if err != nil || len(all) == 0 {
					t.Errorf("%v, %v", all, err)
					return
				}
				times[i] = all[0].Metrics[0].Timestamp
				return
			}
			stream, err := shared.Runtime().StreamPodSandboxMetrics(t.Context(), &runtimeapi.StreamPodSandboxMetricsRequest{})
			if err != nil {
				t.Error(err)
				return
			}
			page, err := stream.Recv()
			if err != nil || len(page.PodSandboxMetrics) == 0 {
				t.Errorf("%v, %v", page, err)
				return
			}
			times[i] = page.PodSandboxMetrics[0].Metrics[0].Timestamp
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("the end of the stream: %v", err)
			}
		})
	}
	group.Wait()
	slices.Sort(times)
	// A slow machine can spread the callers over two collections, not over eight.
	if len(slices.Compact(times)) > callers/2 {
		t.Errorf("collected at %v", times)
	}
}

func TestPressureAndIO(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	s, err := shared.runtime.ContainerStats(t.Context(), c.id)
	if err != nil {
		t.Fatal(err)
	}
	pod, err := shared.runtime.PodSandboxStats(t.Context(), p.id)
	if err != nil {
		t.Fatal(err)
	}
	descriptors, err := shared.runtime.ListMetricDescriptors(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told := slices.ContainsFunc(descriptors, func(d *runtimeapi.MetricDescriptor) bool {
		return d.Name == "container_pressure_cpu_waiting_seconds_total"
	})
	same(t, "pressure of cgroups", told, hasPressure())
	for name, psi := range map[string]*runtimeapi.PsiStats{
		"CPU": s.Cpu.Psi, "memory": s.Memory.Psi, "I/O": s.Io.GetPsi(), "the container's in the pod's": pod.Linux.Containers[0].Cpu.Psi,
	} {
		if (psi.GetSome() != nil && psi.GetFull() != nil) != told {
			t.Errorf("%s: %v where the node's is %v", name, psi, told)
		}
	}
	if told && s.Io.Timestamp <= 0 {
		t.Errorf("I/O: %v", s.Io)
	}
}
