package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	nriapi "github.com/containerd/nri/pkg/api"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/nri/nritest"
)

// adjusting connects a plugin that adjusts every container so.
func adjusting(t *testing.T, d *daemon, change func(*nriapi.ContainerAdjustment)) *nritest.Plugin {
	t.Helper()
	return d.connect(t, &nritest.Plugin{
		Create: func(*nriapi.PodSandbox, *nriapi.Container) (*nriapi.ContainerAdjustment, []*nriapi.ContainerUpdate) {
			a := &nriapi.ContainerAdjustment{}
			change(a)
			return a, nil
		},
	})
}

func TestNRIAdjustsProcess(t *testing.T) {
	checkLeaks(t, shared)
	plugin := adjusting(t, shared, func(a *nriapi.ContainerAdjustment) {
		a.AddEnv("ADDED", "by a plugin")
		a.AddEnv("CHANGED", "new")
		a.RemoveEnv("REMOVED")
		a.AddAnnotation("example.com/added", "yes")
		a.SetArgs([]string{"sleep", "1234"})
		a.AddRlimit("RLIMIT_NOFILE", 512, 256)
		a.SetLinuxOomScoreAdj(ptr(777))
		a.SetLinuxIOPriority(&nriapi.LinuxIOPriority{Class: nriapi.IOPrioClass_IOPRIO_CLASS_BE, Priority: 6})
		a.SetLinuxScheduler(&nriapi.LinuxScheduler{Policy: nriapi.LinuxSchedulerPolicy_SCHED_BATCH, Nice: 7})
		a.SetLinuxSeccompPolicy(&nriapi.LinuxSeccomp{
			DefaultAction: "SCMP_ACT_ALLOW",
			Syscalls: []*nriapi.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: &nriapi.OptionalUInt32{Value: 95}},
			},
		})
	})
	p := shared.runPod(t, hostNetwork)
	c := p.run(env("CHANGED", "old"), env("REMOVED", "x"))
	vars := c.sh("tr '\\0' '\\n' </proc/1/environ")
	for _, want := range []string{"ADDED=by a plugin", "CHANGED=new"} {
		if !strings.Contains(vars, want) {
			t.Errorf("the environment lacks %s: %s", want, vars)
		}
	}
	if strings.Contains(vars, "REMOVED") || strings.Contains(vars, "old") {
		t.Errorf("the environment is %s", vars)
	}
	same(t, "command", c.sh("tr '\\0' ' ' </proc/1/cmdline"), "sleep 1234")
	same(t, "soft limit", c.sh("awk '/open files/ {print $4, $5}' /proc/1/limits"), "256 512")
	same(t, "OOM score", c.sh("cat /proc/1/oom_score_adj"), "777")
	same(t, "OOM score in the status", c.status().Resources.GetLinux().GetOomScoreAdj(), 777)
	// proc(5): field 19 is the nice value, field 41 the policy, 3 for SCHED_BATCH.
	same(t, "nice value and policy", c.sh("sed 's/.*) //' /proc/1/stat | awk '{print $17, $39}'"), "7 3")
	if out, err := exec.Command("ionice", "-p", c.hostPid()).Output(); err != nil || strings.TrimSpace(string(out)) != "best-effort: prio 6" {
		t.Errorf("the I/O priority is %q: %v", out, err)
	}
	same(t, "what mkdir says", c.sh("mkdir /tmp/x 2>&1 | grep -c 'not supported'"), "1")
	same(t, "annotation", plugin.Last("PostStartContainer").Container.Annotations["example.com/added"], "yes")
}

func TestNRIAdjustsMountsAndDevices(t *testing.T) {
	checkLeaks(t, shared)
	host := t.TempDir()
	write(t, filepath.Join(host, "file"), "from the host")
	if err := os.Mkdir(filepath.Join(host, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	adjusting(t, shared, func(a *nriapi.ContainerAdjustment) {
		a.AddMount(&nriapi.Mount{Destination: "/plugin", Source: host, Type: "bind", Options: []string{"rbind", "ro"}})
		a.RemoveMount("/gone")
		a.RemoveDevice("/dev/gone")
		a.AddDevice(&nriapi.LinuxDevice{Path: "/dev/plugin-null", Type: "c", Major: 1, Minor: 3, FileMode: nriapi.FileMode(uint32(0o666))})
	})
	p := shared.runPod(t, hostNetwork)
	c := p.run(mount(host, "/gone"), mount(host, "/plugin/sub"), func(c *runtimeapi.ContainerConfig) {
		c.Devices = []*runtimeapi.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/gone", Permissions: "rwm"}}
	})
	same(t, "file in the mount", c.sh("cat /plugin/file"), "from the host")
	// The plugin's mount does not hide the one below it.
	same(t, "file below it", c.sh("cat /plugin/sub/file"), "from the host")
	same(t, "mount that was removed", c.sh("grep -c ' /gone ' /proc/mounts || true"), "0")
	same(t, "writing", c.sh("touch /plugin/x 2>&1 | grep -c 'Read-only'"), "1")
	same(t, "device that was removed", c.sh("ls /dev | grep -c gone || true"), "0")
	same(t, "device", c.sh("echo x >/dev/plugin-null && stat -c '%t %T %a' /dev/plugin-null"), "1 3 666")
}

func TestNRIAdjustsLinux(t *testing.T) {
	checkLeaks(t, shared)
	adjusting(t, shared, func(a *nriapi.ContainerAdjustment) {
		a.SetLinuxMemoryLimit(48 << 20)
		a.SetLinuxCPUShares(600)
		a.SetLinuxCPUQuota(30000)
		a.SetLinuxCPUPeriod(100000)
		a.SetLinuxCPUSetCPUs("0")
		a.SetLinuxPidLimits(55)
		a.SetLinuxSysctl("kernel.msgmax", "4321")
		a.AddOrReplaceNamespace(&nriapi.LinuxNamespace{Type: "ipc"})
		a.RemoveNamespace(&nriapi.LinuxNamespace{Type: "uts"})
		a.SetLinuxMemoryPolicy(nriapi.MpolMode_MPOL_BIND, "0")
	})
	p := shared.runPod(t)
	c := p.run(resources(func(r *runtimeapi.LinuxContainerResources) { r.CpuShares, r.MemoryLimitInBytes = 100, 32<<20 }))
	same(t, "memory limit", c.limit("memory", "memory.limit_in_bytes", "memory.max"), itoa(48<<20))
	same(t, "CPUs", c.limit("cpuset", "cpuset.cpus", "cpuset.cpus"), "0")
	same(t, "processes", c.limit("pids", "pids.max", "pids.max"), "55")
	if !unified() {
		same(t, "CPU shares", c.limit("cpu", "cpu.shares", ""), "600")
		same(t, "CPU quota", c.limit("cpu", "cpu.cfs_quota_us", ""), "30000")
	}
	linux := c.status().Resources.GetLinux()
	same(t, "limits in the status", [4]int64{linux.CpuShares, linux.CpuQuota, linux.CpuPeriod, linux.MemoryLimitInBytes}, [4]int64{600, 30000, 100000, 48 << 20})
	same(t, "sysctl", c.sh("cat /proc/sys/kernel/msgmax"), "4321")
	if c.namespace("ipc") == namespace(t, "ipc") || c.namespace("uts") != namespace(t, "uts") {
		t.Errorf("namespaces: ipc %s, uts %s", c.namespace("ipc"), c.namespace("uts"))
	}
	if out := c.sh("head -1 /proc/1/numa_maps"); !strings.Contains(out, "bind:0") {
		t.Errorf("the memory policy is %q", out)
	}
	// What CRI has no field for stays over an update.
	err := shared.runtime.UpdateContainerResources(t.Context(), c.id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuQuota: 20000}})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "processes after an update", c.limit("pids", "pids.max", "pids.max"), "55")
	same(t, "memory limit after an update", c.limit("memory", "memory.limit_in_bytes", "memory.max"), itoa(48<<20))
}

func TestNRIAdjustsCgroup(t *testing.T) {
	checkLeaks(t, shared)
	var path string
	plugin := adjusting(t, shared, func(a *nriapi.ContainerAdjustment) { a.SetLinuxCgroupsPath(path) })
	p := shared.runPod(t, hostNetwork)
	for _, bad := range []string{"relative", "/", "/top", "/a/../b"} {
		path = bad
		_, err := p.tryCreate()
		wantCode(t, "cgroup "+bad, err, codes.InvalidArgument)
	}
	parent := p.config.Linux.CgroupParent
	path = parent + "/chosen"
	where := path
	if systemdDriver {
		path, where = filepath.Base(parent)+":a:chosen", parent+"/a-chosen.scope"
	}
	c := p.run()
	same(t, "cgroup", plugin.Last("PostStartContainer").Container.Linux.CgroupsPath, path)
	data, err := os.ReadFile("/proc/" + c.hostPid() + "/cgroup")
	if err != nil || !strings.Contains(string(data), where+"\n") {
		t.Errorf("the container is in %s: %v", data, err)
	}
	stats, err := shared.runtime.ContainerStats(t.Context(), c.id)
	if err != nil || stats.GetMemory().GetUsageBytes().GetValue() == 0 {
		t.Errorf("statistics: %v, %v", stats, err)
	}
	p.remove()
}

// A network device of the node goes into the pod's network namespace.
func TestNRIAdjustsNetDevices(t *testing.T) {
	checkLeaks(t, shared)
	name := "bnri" + itoa(os.Getpid()%100000)
	if out, err := exec.Command("ip", "link", "add", name, "type", "veth", "peer", "name", name+"p").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name+"p").Run() })
	adjusting(t, shared, func(a *nriapi.ContainerAdjustment) {
		a.AddLinuxNetDevice(name, &nriapi.LinuxNetDevice{Name: "plugin0"})
	})
	p := shared.runPod(t)
	c := p.run()
	same(t, "device", c.sh("ls /sys/class/net/ | grep -c plugin0"), "1")
}

func TestNRIAdjustsHooks(t *testing.T) {
	checkLeaks(t, shared)
	dir := t.TempDir()
	script := write(t, filepath.Join(dir, "hook"), "#!/bin/sh\ncat >/dev/null\necho \"$1\" >>"+filepath.Join(dir, "ran")+"\n")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	hook := func(name string) []*nriapi.Hook {
		return []*nriapi.Hook{{Path: script, Args: []string{"hook", name}, Timeout: nriapi.Int(10)}}
	}
	adjusting(t, shared, func(a *nriapi.ContainerAdjustment) {
		a.AddHooks(&nriapi.Hooks{
			Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"),
			StartContainer: []*nriapi.Hook{{Path: "/bin/touch", Args: []string{"touch", "/started"}}},
			Poststart:      hook("poststart"), Poststop: hook("poststop"),
		})
	})
	p := shared.runPod(t, hostNetwork)
	c := p.run()
	// The container's first process runs it when it has been let go, and then the command.
	eventually(t, "the hook in the container has run", func() bool { return c.sh("ls /started 2>/dev/null || true") == "/started" })
	p.remove()
	ran, err := os.ReadFile(filepath.Join(dir, "ran"))
	if got := strings.Join(strings.Fields(string(ran)), " "); err != nil || got != "prestart createRuntime createContainer poststart poststop" {
		t.Errorf("hooks that ran: %q, %v", got, err)
	}
}

func TestNRIAdjustsCDIDevices(t *testing.T) {
	dir := shortDir(t)
	d := ownDaemon(t, "runtime:\n  cdiSpecDirs: ["+dir+"/cdi]\n")
	name := "vendor.test/gpu=one"
	adjusting(t, d, func(a *nriapi.ContainerAdjustment) { a.AddCDIDevice(&nriapi.CDIDevice{Name: name}) })
	write(t, dir+"/cdi/vendor.yaml", `cdiVersion: "0.6.0"
kind: vendor.test/gpu
devices:
- name: one
  containerEdits:
    env: ["WHICH=one"]
    deviceNodes: [{path: /dev/gpu, hostPath: /dev/null, permissions: rw}]
`)
	p := d.runPod(t, hostNetwork)
	d.pull(t, busybox)
	c := p.run()
	same(t, "variable of the device", c.sh("tr '\\0' '\\n' </proc/1/environ | grep WHICH"), "WHICH=one")
	same(t, "device", c.sh("echo x >/dev/gpu && stat -c '%t %T' /dev/gpu"), "1 3")
	name = "vendor.test/gpu=none"
	_, err := p.tryCreate()
	wantCode(t, "a device that nothing describes", err, codes.NotFound)
}

// What this runtime or node cannot give is refused by name.
func TestNRIAdjustmentsThatAreRefused(t *testing.T) {
	checkLeaks(t, shared)
	var change func(*nriapi.ContainerAdjustment)
	adjusting(t, shared, func(a *nriapi.ContainerAdjustment) { change(a) })
	p := shared.runPod(t, hostNetwork)
	for _, test := range []struct {
		what   string
		code   codes.Code
		change func(*nriapi.ContainerAdjustment)
	}{
		{"block I/O class", codes.FailedPrecondition, func(a *nriapi.ContainerAdjustment) { a.SetLinuxBlockIOClass("gold") }},
		{"RDT class", codes.FailedPrecondition, func(a *nriapi.ContainerAdjustment) { a.SetLinuxRDTClass("silver") }},
		{"mount", codes.InvalidArgument, func(a *nriapi.ContainerAdjustment) {
			a.AddMount(&nriapi.Mount{Destination: "relative", Source: "/", Type: "bind"})
		}},
		{"device", codes.InvalidArgument, func(a *nriapi.ContainerAdjustment) { a.AddDevice(&nriapi.LinuxDevice{Path: "null", Type: "c"}) }},
		{"namespace", codes.InvalidArgument, func(a *nriapi.ContainerAdjustment) {
			a.AddOrReplaceNamespace(&nriapi.LinuxNamespace{Type: "space"})
		}},
		{"limit", codes.InvalidArgument, func(a *nriapi.ContainerAdjustment) { a.AddRlimit("RLIMIT_FUN", 1, 1) }},
		{"limits", codes.InvalidArgument, func(a *nriapi.ContainerAdjustment) { a.AddRlimit("RLIMIT_CORE", 1, 2) }},
		{"score", codes.InvalidArgument, func(a *nriapi.ContainerAdjustment) { a.SetLinuxOomScoreAdj(ptr(2000)) }},
	} {
		change = test.change
		_, err := p.tryCreate()
		wantCode(t, test.what, err, test.code)
		if err == nil || !strings.Contains(err.Error(), "NRI") {
			t.Errorf("%s: the error does not say whose fault it is: %v", test.what, err)
		}
	}
	same(t, "containers", p.containers(), 0)
}

func ptr[T any](v T) *T { return &v }
