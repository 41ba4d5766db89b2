package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/hack/testnode"
)

// unified tells whether the machine has cgroup v2 only.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// limit reads a file of the container's cgroup from inside; it is named by its
// name in cgroup v1 and that in v2.
func (c *ctr) limit(controller, v1, v2 string) string {
	c.t.Helper()
	if unified() {
		return c.sh("cat /sys/fs/cgroup/" + v2)
	}
	return c.sh("cat /sys/fs/cgroup/" + controller + "/" + v1)
}

func TestResources(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(resources(func(r *runtimeapi.LinuxContainerResources) {
		r.CpuPeriod, r.CpuQuota, r.CpuShares = 100000, 50000, 512
		r.MemoryLimitInBytes = 64 << 20
		r.CpusetCpus = "0"
		r.OomScoreAdj = 500
	}))
	quota := "50000"
	if unified() {
		quota = "50000 100000"
	}
	same(t, "CPU quota", c.limit("cpu", "cpu.cfs_quota_us", "cpu.max"), quota)
	if !unified() {
		same(t, "CPU shares", c.limit("cpu", "cpu.shares", ""), "512")
	}
	same(t, "memory limit", c.limit("memory", "memory.limit_in_bytes", "memory.max"), "67108864")
	same(t, "CPUs", c.limit("cpuset", "cpuset.cpus", "cpuset.cpus"), "0")
	same(t, "OOM score", c.sh("cat /proc/1/oom_score_adj"), "500")
	same(t, "OOM score of an exec", c.sh("cat /proc/self/oom_score_adj"), "500")
	same(t, "the CPUs of an exec", c.sh("grep Cpus_allowed_list /proc/self/status | tr -d '[:space:]'"), "Cpus_allowed_list:0")
	linux := c.status().Resources.GetLinux()
	same(t, "memory limit in the status", linux.GetMemoryLimitInBytes(), 64<<20)
	same(t, "CPU quota in the status", linux.GetCpuQuota(), 50000)
	same(t, "CPU shares in the status", linux.GetCpuShares(), 512)
}

// A score below the daemon's own needs CAP_SYS_RESOURCE; where that is missing
// the container gets the least that is allowed.
func TestOOMScoreIsClamped(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(resources(func(r *runtimeapi.LinuxContainerResources) { r.OomScoreAdj = -999 }))
	got := atoi(t, c.sh("cat /proc/1/oom_score_adj"))
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	if own := atoi(t, string(data)); got != -999 && got > own {
		t.Errorf("the score is %d; asked for -999, ours is %d", got, own)
	}
}

func TestPidsLimit(t *testing.T) {
	d := ownDaemon(t, "runtime:\n  pidsLimit: 12\n")
	p := d.runPod(t, hostNetwork)
	c := p.run()
	same(t, "the limit", c.limit("pids", "pids.max", "pids.max"), "12")
	out := c.sh("(for i in $(seq 20); do sleep 1000 & done) 2>&1 || true")
	if !strings.Contains(out, "can't fork") {
		t.Errorf("20 processes were started: %s", out)
	}
}

func TestUpdateResources(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(resources(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes, r.CpuShares = 64<<20, 512 }))
	err := shared.runtime.UpdateContainerResources(t.Context(), c.id, &runtimeapi.ContainerResources{
		Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuQuota: 20000, CpuPeriod: 100000, CpusetCpus: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "memory limit", c.limit("memory", "memory.limit_in_bytes", "memory.max"), "134217728")
	same(t, "CPUs", c.limit("cpuset", "cpuset.cpus", "cpuset.cpus"), "0")
	if !unified() {
		same(t, "CPU quota", c.limit("cpu", "cpu.cfs_quota_us", ""), "20000")
		same(t, "CPU shares that were not named", c.limit("cpu", "cpu.shares", ""), "512")
	}
	linux := c.status().Resources.GetLinux()
	same(t, "memory limit in the status", linux.GetMemoryLimitInBytes(), 128<<20)
	same(t, "CPU quota in the status", linux.GetCpuQuota(), 20000)
	same(t, "CPU shares in the status", linux.GetCpuShares(), 512)

	err = shared.runtime.UpdateContainerResources(t.Context(), c.id, &runtimeapi.ContainerResources{
		Linux: &runtimeapi.LinuxContainerResources{CpusetCpus: "999"},
	})
	if err == nil {
		t.Error("a CPU that is not there was accepted")
	}
	same(t, "CPUs after the refusal", c.limit("cpuset", "cpuset.cpus", "cpuset.cpus"), "0")
}

func TestOOMKilled(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(
		resources(func(r *runtimeapi.LinuxContainerResources) {
			r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 16<<20, 16<<20
		}),
		command("tail", "/dev/zero"), // one line without an end
	)
	s := c.wait()
	same(t, "reason", s.Reason, "OOMKilled")
	same(t, "exit code", s.ExitCode, 128+9)
}

func TestSmallMemoryLimit(t *testing.T) {
	p := runPod(t, hostNetwork)
	limit := func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 4 << 20 }
	if os.Getenv(testnode.HandlerEnv) == "" {
		c := p.run(resources(limit))
		same(t, "output", c.sh("echo alive"), "alive")
		// Its init did without huge pages, for which there is no room; the command may have them.
		same(t, "huge pages of the command", hugePages(t, c.hostPid()), hugePages(t, "self"))
		return
	}
	// Other runtimes have a process of their own in there, and take more.
	c := p.create(resources(limit))
	err := shared.runtime.StartContainer(t.Context(), c.id)
	if err == nil || !strings.Contains(err.Error(), "memory limit is too low") {
		t.Errorf("a start within 4 MiB: %v", err)
	}
}

// hugePages is what the kernel says of the transparent huge pages of a process.
func hugePages(t testing.TB, pid string) string {
	t.Helper()
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^THP_enabled:.*$`).Find(status)
	if line == nil {
		t.Fatalf("no THP_enabled in the status of process %s:\n%s", pid, status)
	}
	return string(line)
}

// The container's processes are below the pod's cgroup parent, in every
// hierarchy, in both of the forms that a parent has.
func TestCgroupParent(t *testing.T) {
	parents := map[string]string{"bare": cgroupPrefix + "bare"}
	if systemdDriver {
		parents["bare"] += ".slice"
		parents["nested"] = "/" + cgroupPrefix + "pods.slice/" + cgroupPrefix + "pods-burstable.slice"
	} else {
		parents["cgroupfs"] = "/" + cgroupPrefix + "parent/burstable/podx"
		parents["systemd"] = "/" + cgroupPrefix + "pods.slice/" + cgroupPrefix + "pods-burstable.slice"
	}
	for name, parent := range parents {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t, shared)
			t.Cleanup(func() {
				for dir := filepath.Dir(filepath.Clean("/" + parent)); dir != "/"; dir = filepath.Dir(dir) {
					removeCgroups(t, dir)
				}
			})
			p := shared.runPod(t, hostNetwork, func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = parent })
			data, err := os.ReadFile(filepath.Join("/proc", p.run().hostPid(), "cgroup"))
			if err != nil {
				t.Fatal(err)
			}
			want := filepath.Clean("/" + parent)
			for line := range strings.Lines(string(data)) {
				parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
				// A hierarchy without controllers may be unused on a v1 host.
				if parts[1] == "" && !unified() {
					continue
				}
				if !strings.HasPrefix(parts[2], want+"/") {
					t.Errorf("%s: %s is not below %s", parts[1], parts[2], want)
				}
			}
		})
	}
}

// hasPressure tells whether the kernel measures the pressure of each cgroup.
func hasPressure() bool {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.ReadFile(mount + "/cpu.pressure"); err == nil {
			return true
		}
	}
	return false
}
