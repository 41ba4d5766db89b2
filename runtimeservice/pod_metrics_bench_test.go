package runtimeservice

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/stats"
)

// BenchmarkPodSandboxMetrics collects the metrics of 250 pods with a container
// each, from real cgroups and processes, and encodes the answer. It needs root.
func BenchmarkPodSandboxMetrics(b *testing.B) {
	const pods = 250
	n := newNode(b)
	s := n.open()
	if err := s.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	s.stats = stats.NewReader("")
	top := fmt.Sprintf("/berth-bench-%d", os.Getpid())
	for i := range pods {
		config := podConfig(fmt.Sprint("p", i))
		config.Linux.CgroupParent = fmt.Sprintf("%s/pod%d", top, i)
		pod, err := s.RunPodSandbox(b.Context(), config, "")
		if err != nil {
			b.Fatal(err)
		}
		id, err := s.CreateContainer(b.Context(), pod, containerConfig("app"), config)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.StartContainer(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		c, _ := s.containers.get(id)
		pid := benchProcess(b, c.rec.Load().CgroupPath, top)
		if err := c.update(func(rec *record.Container) { rec.Pid = pid }); err != nil {
			b.Fatal(err)
		}
	}
	size, used := 0, cpuTime(b)
	for b.Loop() {
		s.scrapes.last, s.usage.entries = nil, nil // nothing is shared with the round before
		all, err := s.PodSandboxMetrics(b.Context())
		if err != nil || len(all) != pods || len(all[0].ContainerMetrics) != 1 {
			b.Fatalf("%d pods, %v", len(all), err)
		}
		raw, err := proto.Marshal(&runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: all})
		if err != nil {
			b.Fatal(err)
		}
		size = len(raw)
	}
	b.ReportMetric(float64(size), "bytes/answer")
	// On a machine that does other work too this says more than the time does.
	b.ReportMetric(float64(cpuTime(b)-used)/float64(b.N), "cpu-ns/op")
}

// cpuTime is what this process has used, in nanoseconds.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

// benchProcess starts a process in a cgroup of every hierarchy; both end with
// the benchmark.
func benchProcess(b *testing.B, cgroup, top string) int {
	b.Helper()
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	mounts, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		mounts = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	for _, mount := range mounts {
		dir := filepath.Join(filepath.Dir(mount), cgroup)
		if filepath.Base(filepath.Dir(mount)) == "cpuset" {
			continue // has to be filled in first, and nothing is read there
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, mount := range mounts {
			for dir := cgroup; len(dir) >= len(top); dir = filepath.Dir(dir) {
				_ = os.Remove(filepath.Join(filepath.Dir(mount), dir)) // not while others are in it
			}
		}
	})
	return cmd.Process.Pid
}
