package monitor

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultSeccomp is the profile that pods get by default.
func defaultSeccomp(t testing.TB, spec *specs.Spec) *specs.LinuxSeccomp {
	t.Helper()
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return profile
}

// reportCPU adds the processor time of the monitor and of containers to a
// benchmark, where cgroup v1 counts it.
func reportCPU(b *testing.B) {
	read := func() (ns float64) {
		data, err := os.ReadFile("/sys/fs/cgroup/cpuacct" + group + "/cpuacct.usage")
		if err == nil {
			fmt.Sscan(string(data), &ns)
		}
		return ns
	}
	before := read()
	b.Cleanup(func() {
		if used := read() - before; used > 0 {
			b.ReportMetric(used/float64(b.N)/1e6, "cpu-ms/op")
		}
	})
}

func benchmarkStart(b *testing.B, edit func(*StartRequest)) {
	e := newEnv(b)
	r := e.request("exec sleep 1000", edit)
	reportCPU(b)
	for b.Loop() {
		if _, err := e.client.Start(e.ctx(), r); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := e.client.Delete(e.ctx(), r.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkStart(b *testing.B) { benchmarkStart(b, func(*StartRequest) {}) }

func BenchmarkStartSeccomp(b *testing.B) {
	benchmarkStart(b, func(r *StartRequest) { r.Spec.Linux.Seccomp = defaultSeccomp(b, r.Spec) })
}

func BenchmarkDelete(b *testing.B) {
	e := newEnv(b)
	r := e.request("exec sleep 1000")
	reportCPU(b)
	for b.Loop() {
		b.StopTimer()
		if _, err := e.client.Start(e.ctx(), r); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := e.client.Delete(e.ctx(), r.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkExec(b *testing.B, edit func(*StartRequest)) {
	e := newEnv(b)
	r := e.start("exec sleep 1000", edit)
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	reportCPU(b)
	for b.Loop() {
		x, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: r.ID, Process: e.process("true"), Stdout: null})
		if err != nil {
			b.Fatal(err)
		}
		if exit, err := x.Wait(e.ctx()); err != nil || exit.Code != 0 {
			b.Fatal(dump(exit), err)
		}
	}
}

func BenchmarkExec(b *testing.B) { benchmarkExec(b, func(*StartRequest) {}) }

func BenchmarkExecSeccomp(b *testing.B) {
	benchmarkExec(b, func(r *StartRequest) { r.Spec.Linux.Seccomp = defaultSeccomp(b, r.Spec) })
}

// BenchmarkMemory reports what a running container adds to the monitor.
func BenchmarkMemory(b *testing.B) {
	e := newEnv(b)
	root := e.rootfs()
	start := func(id string) {
		spec := e.spec(id, "/bin/sleep", "1000")
		spec.Root.Path = root
		spec.Linux.Seccomp = defaultSeccomp(b, spec)
		if _, err := e.client.Start(e.ctx(), StartRequest{ID: id, Spec: spec, LogPath: e.dir + "/" + id + ".log"}); err != nil {
			b.Fatal(err)
		}
	}
	start("first")
	time.Sleep(6 * time.Second)
	before := pss(b, e.pid())
	const containers = 40
	for b.Loop() {
		for i := range containers {
			start(fmt.Sprint("m", i))
		}
		time.Sleep(6 * time.Second) // the monitor gives memory back
		b.ReportMetric(pss(b, e.pid())-before, "KiB-all")
		b.ReportMetric((pss(b, e.pid())-before)/containers, "KiB/container")
		b.ReportMetric(before, "KiB-base")
		if os.Getenv("MEMORY_WAIT") != "" {
			fmt.Println(e.pid())
			data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", e.pid()))
			os.WriteFile("/tmp/mon/smaps", data, 0o600)
		}
		for i := range containers {
			if err := e.client.Delete(e.ctx(), fmt.Sprint("m", i)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func pss(b *testing.B, pid int) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var n float64
		if _, err := fmt.Sscanf(line, "Pss: %f kB", &n); err == nil {
			return n
		}
	}
	return 0
}
