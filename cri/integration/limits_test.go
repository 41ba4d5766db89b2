package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// canLimitHugepages tells whether the node has the hugetlb controller.
func canLimitHugepages() bool {
	if unified() {
		data, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		return slices.Contains(strings.Fields(string(data)), "hugetlb")
	}
	return exists("/sys/fs/cgroup/hugetlb")
}

func TestHugepageLimits(t *testing.T) {
	p := runPod(t, hostNetwork)
	limit := func(size string, n uint64) ctrOption {
		return resources(func(r *runtimeapi.LinuxContainerResources) {
			r.HugepageLimits = append(r.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: size, Limit: n})
		})
	}
	if !canLimitHugepages() {
		_, err := p.tryCreate(limit("2MB", 4<<20))
		wantCode(t, "a limit that the node cannot keep", err, codes.FailedPrecondition)
		if err != nil && !strings.Contains(err.Error(), "hugepage_limits[0].page_size") {
			t.Errorf("the error does not name the field: %v", err)
		}
		same(t, "with no pages of a size it runs", p.run(limit("2MB", 0)).sh("echo yes"), "yes")
		return
	}
	c := p.run(limit("2MB", 4<<20))
	same(t, "limit", c.limit("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"), "4194304")
	if linux := c.status().Resources.GetLinux(); len(linux.GetHugepageLimits()) != 1 || linux.HugepageLimits[0].Limit != 4<<20 {
		t.Errorf("limits in the status: %v", linux.GetHugepageLimits())
	}
	c.update(&runtimeapi.LinuxContainerResources{
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2 << 20}},
	})
	same(t, "limit after an update", c.limit("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"), "2097152")
}

// update changes limits of the container.
func (c *ctr) update(r *runtimeapi.LinuxContainerResources) {
	c.t.Helper()
	err := c.pod.d.runtime.UpdateContainerResources(c.t.Context(), c.id, &runtimeapi.ContainerResources{Linux: r})
	if err != nil {
		c.t.Fatalf("update the container: %v", err)
	}
}

// swapLimit is how much swap the container may use, in bytes; -1 where the kernel
// does not limit it.
func (c *ctr) swapLimit() int64 {
	c.t.Helper()
	if unified() {
		value := c.sh("cat /sys/fs/cgroup/memory.swap.max 2>/dev/null || echo -1")
		if value == "max" {
			return -1
		}
		return atoi(c.t, value)
	}
	value := atoi(c.t, c.sh("cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null || echo -1"))
	if value < 0 {
		return -1
	}
	return value - atoi(c.t, c.sh("cat /sys/fs/cgroup/memory/memory.limit_in_bytes"))
}

func TestSwapLimits(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(resources(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 64 << 20 }))
	if c.swapLimit() == -1 {
		t.Log("the kernel does not limit swap; the container runs without")
		return
	}
	same(t, "swap beside a limit for memory alone", c.swapLimit(), 0)
	c.update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 48 << 20, MemorySwapLimitInBytes: 64 << 20})
	same(t, "swap after an update", c.swapLimit(), 16<<20)
	c = p.run(resources(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 64<<20, 96<<20
	}))
	same(t, "swap", c.swapLimit(), 32<<20)
	same(t, "memory and swap in the status", c.status().Resources.GetLinux().GetMemorySwapLimitInBytes(), 96<<20)
}

// The kubelet sends what only cgroup v2 has by the names of its files.
func TestUnified(t *testing.T) {
	p := runPod(t, hostNetwork)
	wanted := resources(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes = 64 << 20
		r.Unified = map[string]string{"memory.high": "50331648", "memory.oom.group": "1", "pids.max": "33"}
	})
	if !unified() {
		_, err := p.tryCreate(wanted)
		wantCode(t, "parameters of cgroup v2", err, codes.FailedPrecondition)
		if err != nil && !strings.Contains(err.Error(), "unified") {
			t.Errorf("the error does not name the field: %v", err)
		}
		return
	}
	c := p.run(wanted)
	value := func(name string) string { return c.sh("cat /sys/fs/cgroup/" + name) }
	same(t, "memory.high", value("memory.high"), "50331648")
	same(t, "memory.oom.group", value("memory.oom.group"), "1")
	same(t, "pids.max", value("pids.max"), "33")
	c.update(&runtimeapi.LinuxContainerResources{Unified: map[string]string{"memory.high": "41943040"}})
	same(t, "memory.high after an update", value("memory.high"), "41943040")
	same(t, "memory.oom.group after an update of another", value("memory.oom.group"), "1")
	same(t, "memory.max after an update of another", value("memory.max"), "67108864")
	_, err := p.tryCreate(resources(func(r *runtimeapi.LinuxContainerResources) {
		r.Unified = map[string]string{"../cgroup.procs": "1"}
	}))
	wantCode(t, "a path", err, codes.InvalidArgument)
}

// hungry is a script whose child needs more memory than there is; "tail" keeps a line
// that has no end.
const hungry = "tail /dev/zero; "

// smallMemory allows 16 MiB and no swap, and on cgroup v2 says whether all die with one.
func smallMemory(group string) ctrOption {
	return resources(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 16<<20, 16<<20
		if unified() && group != "" {
			r.Unified = map[string]string{"memory.oom.group": group}
		}
	})
}

// The reason names the OOM killer also when it took a child and the container ended
// for that.
func TestOOMKilledChild(t *testing.T) {
	p := runPod(t, hostNetwork)
	s := p.run(smallMemory("0"), shell(hungry+"exit 5")).wait()
	same(t, "reason", s.Reason, "OOMKilled")
	same(t, "exit code", s.ExitCode, 5)

	// One that copes with it has not failed, but it is counted.
	c := p.run(smallMemory("0"), shell(hungry+"sleep 3600"))
	eventually(t, "the child is killed and counted", func() bool { return oomKills(t, p, c) == 1 })
	same(t, "state", c.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

func TestOOMKilledGroup(t *testing.T) {
	if !unified() {
		return // cgroup v1 has no groups
	}
	p := runPod(t, hostNetwork)
	s := p.run(smallMemory("1"), shell(hungry+"exit 5")).wait()
	same(t, "reason", s.Reason, "OOMKilled")
	same(t, "exit code", s.ExitCode, 128+9)
}

// oomKills is the node's count of what was killed for want of memory in a container.
func oomKills(t *testing.T, p *pod, c *ctr) uint64 {
	t.Helper()
	pods, err := p.d.runtime.ListPodSandboxMetrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sandbox := range pods {
		for _, container := range sandbox.ContainerMetrics {
			if container.ContainerId != c.id {
				continue
			}
			for _, m := range container.Metrics {
				if m.Name == "container_oom_events_total" {
					return m.Value.GetValue()
				}
			}
		}
	}
	return 0
}

// With CAP_SYS_RESOURCE the scores that the kubelet gives its guaranteed pods and limits
// above the daemon's own are what they were asked to be.
func TestWhatNeedsSysResource(t *testing.T) {
	d := ownDaemon(t, "runtime:\n  rlimits:\n    RLIMIT_NOFILE: {soft: 2000, hard: 1048576}\n")
	if !hasSysResource(t) {
		t.Log("this machine withholds CAP_SYS_RESOURCE; TestOOMScoreIsClamped looks at that")
		return
	}
	p := d.runPod(t, hostNetwork)
	c := p.run(resources(func(r *runtimeapi.LinuxContainerResources) { r.OomScoreAdj = -997 }))
	same(t, "OOM score", c.sh("cat /proc/1/oom_score_adj"), "-997")
	same(t, "OOM score of an exec", c.sh("cat /proc/self/oom_score_adj"), "-997")
	same(t, "open files", c.sh("echo $(grep 'open files' /proc/1/limits)"), "Max open files 2000 1048576 files")
}

// hasSysResource looks for bit 24 of the effective capabilities.
func hasSysResource(t *testing.T) bool {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:\t"); ok {
			hex = strings.TrimSpace(hex)
			return strings.ContainsAny(hex[len(hex)-7:len(hex)-6], "13579bdf")
		}
	}
	return false
}

// The daemon and its monitor are in no pod's cgroup, and the monitor not in the daemon's:
// a service manager that ends or limits the one leaves the other alone.
func TestMonitorHasItsOwnCgroup(t *testing.T) {
	for _, line := range cgroupsOf(t, shared.monitor(t)) {
		if !strings.HasPrefix(filepath.Base(line), "berth-monitor") {
			t.Errorf("the monitor is in %s", line)
		}
	}
}

// cgroupsOf are the cgroups of a process in the hierarchies that have controllers.
func cgroupsOf(t *testing.T, pid int) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + itoa(pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if exists(filepath.Join("/sys/fs/cgroup", parts[1])) && (parts[1] != "" || unified()) {
			found = append(found, parts[2])
		}
	}
	return found
}
