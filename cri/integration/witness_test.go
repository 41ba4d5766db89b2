package integration

import (
	"testing"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// witnessed is what another reader of cgroups says of a container.
type witnessed struct {
	cpu, memory, memoryLimit, threads, maxThreads, periods uint64
}

func witness(t *testing.T, cgroup string) witnessed {
	t.Helper()
	if unified() {
		manager, err := cgroup2.Load(cgroup)
		if err != nil {
			t.Fatal(err)
		}
		m, err := manager.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return witnessed{
			cpu: m.CPU.UsageUsec / 1e6, memory: m.Memory.Usage, memoryLimit: m.Memory.UsageLimit,
			threads: m.Pids.Current, maxThreads: m.Pids.Limit, periods: m.CPU.NrPeriods,
		}
	}
	control, err := cgroup1.Load(cgroup1.StaticPath(cgroup))
	if err != nil {
		t.Fatal(err)
	}
	m, err := control.Stat(cgroup1.IgnoreNotExist)
	if err != nil {
		t.Fatal(err)
	}
	return witnessed{
		cpu: m.CPU.Usage.Total / 1e9, memory: m.Memory.Usage.Usage, memoryLimit: m.Memory.Usage.Limit,
		threads: m.Pids.Current, maxThreads: m.Pids.Limit, periods: m.CPU.Throttling.Periods,
	}
}

// What the metrics say of a container at rest is what containerd's library reads
// in its cgroup.
func TestMetricsAgreeWithAnotherReader(t *testing.T) {
	d := ownDaemon(t, "runtime:\n  pidsLimit: 40\n")
	p := d.runPod(t, hostNetwork)
	c := p.run(shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; touch /rested; exec sleep 1000"),
		resources(func(r *runtimeapi.LinuxContainerResources) {
			r.CpuPeriod, r.CpuQuota, r.MemoryLimitInBytes = 100000, 90000, 64<<20
		}))
	eventually(t, "the container is at rest", func() bool { return c.sh("[ -e /rested ] && cat /proc/1/comm || true") == "sleep" })
	descriptors, err := d.runtime.ListMetricDescriptors(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var before, got, after witnessed
	eventually(t, "nothing changes while it is read", func() bool {
		m := d.metricsOf(t, p)
		if m == nil || len(m.ContainerMetrics) != 1 {
			return false
		}
		cgroup := m.ContainerMetrics[0].Metrics[0].LabelValues[0] // the label id
		before = witness(t, cgroup)
		of := func(name, labels string) uint64 {
			return values(t, descriptors, m.ContainerMetrics[0].Metrics, name)[labels]
		}
		got = witnessed{
			cpu: of("container_cpu_usage_seconds_total", "total"), memory: of("container_memory_usage_bytes", ""),
			memoryLimit: of("container_spec_memory_limit_bytes", ""),
			threads:     of("container_threads", ""), maxThreads: of("container_threads_max", ""),
			periods: of("container_cpu_cfs_periods_total", ""),
		}
		after = witness(t, cgroup)
		return before == after && got == after
	})
	if t.Failed() {
		t.Logf("metrics %+v, the other reader %+v, then %+v", got, before, after)
	}
	same(t, "limit of memory", got.memoryLimit, 64<<20)
	same(t, "limit of threads", got.maxThreads, 40)
}
