package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// counting writes numbered lines for as long as it runs.
const counting = "i=0; while true; do echo line $i; i=$((i+1)); [ $((i % 200)) = 0 ] && sleep 0.01; done"

// checkCounted checks that the lines of a log are numbered without a gap and
// without a repetition, and returns how many there are.
func (c *ctr) checkCounted() int {
	c.t.Helper()
	n := 0
	for _, l := range c.log() {
		if l.text != fmt.Sprintf("line %d", n) {
			c.t.Fatalf("line %d of the log is %q", n, l.text)
		}
		n++
	}
	return n
}

// logged waits until a container has logged more than n lines.
func (c *ctr) logged(n int) int {
	c.t.Helper()
	var now int
	eventually(c.t, fmt.Sprintf("more than %d lines of log", n), func() bool {
		data, err := os.ReadFile(c.logFile())
		now = bytes.Count(data, []byte("\n"))
		return err == nil && now > n
	})
	return now
}

// Pods do not notice that berthd is killed: logs go on, exit codes are kept, and
// the next start takes everything up.
func TestKillOfBerthd(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t)
	writers := []*ctr{p.run(shell(counting)), p.run(shell(counting))}
	ending := p.run(shell("while ! test -e /tmp/end; do sleep 0.02; done; exit 23"))
	created := p.create()
	pid, address := writers[0].hostPid(), p.status().Network.Ip
	for _, w := range writers {
		w.logged(500)
	}
	monitor := d.monitor(t)
	end := ending.file("/tmp/end")

	d.end(t, syscall.SIGKILL)
	write(t, end, "")
	var during []int
	for _, w := range writers {
		during = append(during, w.logged(w.logged(0)+500))
	}
	eventually(t, "the container ends while berthd is away", func() bool {
		return !exists(filepath.Join("/proc", endingPid(t, d, ending)))
	})
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}

	same(t, "monitor", d.monitor(t), monitor)
	same(t, "state of the pod", p.status().State, runtimeapi.PodSandboxState_SANDBOX_READY)
	same(t, "its address", p.status().Network.Ip, address)
	same(t, "PID of a container", writers[0].hostPid(), pid)
	same(t, "exit code of the one that ended", ending.wait().ExitCode, 23)
	same(t, "state of the one that was not started", created.status().State, runtimeapi.ContainerState_CONTAINER_CREATED)
	same(t, "exec", writers[0].sh("echo works"), "works")
	for i, w := range writers {
		w.logged(during[i] + 100)
		w.stop(0)
		w.checkCounted()
	}
	created.start()
	same(t, "the one that was started now", created.sh("echo works"), "works")
	p.remove()
	checkNothingLeft(t, d)
}

// endingPid is the directory name in /proc of a container's process, "none" when
// its cgroup is empty.
func endingPid(t *testing.T, d *daemon, c *ctr) string {
	t.Helper()
	for _, p := range descendants(t, d.monitor(t)) {
		pid, _, _ := strings.Cut(p, " ")
		cgroup, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
		if err == nil && strings.Contains(string(cgroup), c.id) && !strings.Contains(p, " Z)") {
			return pid
		}
	}
	return "none"
}

// checkNothingLeft checks a daemon that has no pods.
func checkNothingLeft(t *testing.T, d *daemon) {
	t.Helper()
	var left []string
	defer func() {
		if len(left) > 0 {
			t.Logf("left behind:\n  %s", strings.Join(left, "\n  "))
		}
	}()
	eventually(t, "nothing is left", func() bool {
		left = slices.DeleteFunc(d.holdings(t), func(h string) bool { return strings.HasPrefix(h, "fd ") })
		return len(left) == 0
	})
}

// Containers live on when their monitor is killed; berthd starts another, which
// goes on with logs and exec, and exit codes are told where the kernel can.
func TestKillOfTheMonitor(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t)
	writer := p.run(shell(counting))
	ending := p.run(shell("while ! test -e /tmp/end; do sleep 0.02; done; exit 23"))
	pid := writer.hostPid()
	before := writer.logged(500)
	old := d.monitor(t)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another monitor", func() bool {
		now, err := d.MonitorPID()
		return err == nil && now != 0 && now != old
	})
	same(t, "PID of the container", writer.hostPid(), pid)
	writer.logged(before + 500)
	eventually(t, "exec works again", func() bool {
		_, _, err := d.runtime.ExecSync(t.Context(), ending.id, []string{"true"}, 0)
		return err == nil
	})
	write(t, ending.file("/tmp/end"), "")
	s := ending.wait()
	if s.ExitCode != 23 && s.Reason != "Unknown" {
		t.Errorf("exit code %d, reason %q, message %q", s.ExitCode, s.Reason, s.Message)
	}
	same(t, "the other goes on", writer.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	writer.stop(0)
	writer.checkCounted()
	same(t, "a new container", p.run().sh("echo works"), "works")
	p.remove()
	checkNothingLeft(t, d)
}

// Both at once is the worst that can happen short of a reboot.
func TestKillOfBoth(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t)
	c := p.run(shell(counting))
	pid := c.hostPid()
	monitor := d.monitor(t)
	d.end(t, syscall.SIGKILL)
	if err := syscall.Kill(monitor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "PID", c.hostPid(), pid)
	same(t, "state", c.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	c.stop(0)
	c.checkCounted()
	same(t, "a new container", p.run().sh("echo works"), "works")
	p.remove()
	checkNothingLeft(t, d)
}

// A graceful stop leaves pods alone, and a second daemon on the same directories
// is refused.
func TestGracefulStopAndSecondStart(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t, hostNetwork)
	c := p.run(shell(counting))
	pid := c.hostPid()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "berthd"), "--root", d.Root, "--state", d.State).CombinedOutput()
	if err == nil || !strings.Contains(string(out), itoa(d.PID())) {
		t.Errorf("a second daemon on the same directories: %v: %s", err, out)
	}
	same(t, "the first serves", c.sh("echo yes"), "yes")
	d.restart(t, syscall.SIGTERM)
	same(t, "PID", c.hostPid(), pid)
	c.stop(0)
	c.checkCounted()
	p.remove()
	checkNothingLeft(t, d)
}

// What is no container's is removed at the next start.
func TestStartRemovesWhatIsNobodys(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t)
	p.run()
	d.end(t, syscall.SIGKILL)
	for _, pattern := range []string{d.Root + "/containers/*", d.Root + "/sandboxes/*"} {
		for _, name := range glob(t, pattern) {
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d)
	removeCgroups(t, p.config.Linux.CgroupParent)
}

// Sixty pods are taken up, with what they were.
func TestManyPods(t *testing.T) {
	d := ownDaemon(t, "")
	const count = 60
	pods := map[string]string{}
	for range count {
		p := d.runPod(t, hostNetwork)
		pods[p.id] = p.run().id
	}
	d.restart(t, syscall.SIGKILL)
	ready, err := d.runtime.ListPodSandbox(t.Context(), &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "ready pods", len(ready), count)
	running, err := d.runtime.ListContainers(t.Context(), &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "running containers", len(running), count)
	for _, c := range running {
		same(t, "container of a pod", pods[c.PodSandboxId], c.Id)
	}
	// No process per pod: the monitor has one child for each container.
	same(t, "processes", len(descendants(t, d.monitor(t))), count)
}
