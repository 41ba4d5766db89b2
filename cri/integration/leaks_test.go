package integration

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkLeaks compares what the daemon holds after the test, when everything
// that the test registered after this call has been cleaned up, with what it
// holds now.
func checkLeaks(t testing.TB, d *daemon) {
	t.Helper()
	before := d.holdings(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("berthd's log:\n%s", d.logTail(6))
		}
		var extra []string
		// Processes end and mounts go a moment after the call that ended them.
		for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			if extra = more(before, d.holdings(t)); len(extra) == 0 {
				return
			}
			if time.Now().After(end) {
				break
			}
		}
		for i, h := range extra {
			if pid, ok := strings.CutPrefix(h, "process "); ok {
				stat, _ := os.ReadFile("/proc/" + pid + "/stat")
				extra[i] = h + ": " + string(stat)
			}
		}
		t.Errorf("left behind:\n  %s", strings.Join(extra, "\n  "))
	})
}

// more lists what is in after and not in before.
func more(before, after []string) []string {
	count := map[string]int{}
	for _, h := range before {
		count[h]++
	}
	var extra []string
	for _, h := range after {
		if count[h]--; count[h] < 0 {
			extra = append(extra, h)
		}
	}
	slices.Sort(extra)
	return extra
}

// holdings lists all that the daemon holds for pods: in its answers, in the
// kernel, in files, in processes and in file descriptors.
func (d *daemon) holdings(t testing.TB) []string {
	t.Helper()
	var all []string
	add := func(kind string, items []string) {
		for _, i := range items {
			all = append(all, kind+" "+i)
		}
	}
	ctx := t.Context()
	if ctx.Err() != nil {
		ctx = context.Background()
	}
	sandboxes, err := d.runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{})
	if err != nil {
		t.Fatalf("list sandboxes: %v", err)
	}
	for _, s := range sandboxes {
		add("sandbox", []string{s.Id})
	}
	containers, err := d.runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{})
	if err != nil {
		t.Fatalf("list containers: %v", err)
	}
	for _, c := range containers {
		add("container", []string{c.Id})
	}
	mounts, err := d.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	add("mount", mounts)
	add("cgroup", podCgroups(t))
	add("interface", glob(t, filepath.Join("/sys/class/net", d.Bridge, "brif", "*")))
	add("address", addresses(t, d.IPAMDir()))
	add("firewall rule", d.rules(t))
	add("file", filesOf(t, d))
	monitor := d.monitor(t)
	for _, p := range descendants(t, monitor) {
		pid, _, _ := strings.Cut(p, " ") // its state and name may change
		add("process", []string{pid})
	}
	add("fd of berthd:", openFiles(t, d.PID()))
	add("fd of berth-monitor:", openFiles(t, monitor))
	return all
}

// cgroupParent is the cgroup of a pod, in the form that the node's driver has.
func cgroupParent(name string) string {
	if systemdDriver {
		return "/" + cgroupPrefix + name + ".slice"
	}
	return "/" + cgroupPrefix + name
}

// cgroupRoots are the mounted hierarchies.
func cgroupRoots(t testing.TB) []string {
	t.Helper()
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return []string{root}
	}
	return glob(t, root+"/*")
}

// podCgroups are the cgroups below those that the pods of this suite name as
// parents; the parents themselves are the client's, as a kubelet's are its own.
func podCgroups(t testing.TB) []string {
	t.Helper()
	var found []string
	for _, root := range cgroupRoots(t) {
		for _, parent := range glob(t, root+"/"+cgroupPrefix+"*") {
			_ = filepath.WalkDir(parent, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() && path != parent {
					found = append(found, path)
				}
				return nil // what goes while we look is no leak
			})
		}
	}
	return found
}

// cgroupPrefix begins the cgroups of this run's pods. It has no dash, with which a slice of
// systemd would be within another.
var cgroupPrefix = fmt.Sprintf("berth_it_%d_", os.Getpid())

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// addresses are the files in which host-local keeps the addresses in use.
func addresses(t testing.TB, dir string) []string {
	t.Helper()
	var found []string
	for _, name := range glob(t, dir+"/*") {
		base := filepath.Base(name)
		if base != "lock" && !strings.HasPrefix(base, "last_reserved_ip") {
			found = append(found, base)
		}
	}
	return found
}

// rules are the packet filter's rules that name the daemon's network, as those
// of masquerading and of host ports do.
func (d *daemon) rules(t testing.TB) []string {
	t.Helper()
	var found []string
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		out, err := exec.Command(program, "-t", "nat").Output()
		if err != nil {
			t.Fatalf("list the rules: %v", err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "-A ") && strings.Contains(line, d.Bridge+`\"`) {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return found
}

// filesOf are the daemon's records and state of pods.
func filesOf(t testing.TB, d *daemon) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		d.Root + "/sandboxes/*", d.Root + "/containers/*", d.Root + "/rootfs/*", d.Root + "/cni/debts/*",
		d.Root + "/cni/results/*", d.Root + "/cni/netns/*", d.State + "/sandboxes/*", d.State + "/containers/*",
		d.State + "/monitor/bundles/*", d.State + "/monitor/runtimes/*/*", d.State + "/monitor/consoles/*",
	} {
		found = append(found, glob(t, pattern)...)
	}
	return found
}

// descendants are the processes below pid, each with its name and state.
func descendants(t testing.TB, pid int) []string {
	t.Helper()
	children := map[int][]int{}
	names := map[int]string{}
	for _, dir := range glob(t, "/proc/[0-9]*") {
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue
		}
		// The name is in parentheses and may have any character.
		open, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
		fields := strings.Fields(string(stat[end+1:]))
		child, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		children[parent] = append(children[parent], child)
		names[child] = string(stat[open+1:end]) + " " + fields[0]
	}
	var found []string
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		found = append(found, fmt.Sprintf("%d (%s)", queue[0], names[queue[0]]))
		queue = append(queue, children[queue[0]]...)
	}
	return found
}

// openFiles are the file descriptors of a process by kind, but for two that the
// garbage collector closes: a pipe of which the process has both ends, which Go
// keeps to splice with, and the FIFO of a container that could not be started,
// which libcontainer forgets.
func openFiles(t testing.TB, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("look at the open files of process %d: %v", pid, err)
	}
	ends := map[string]int{}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			ends[target]++
		}
	}
	var found []string
	for target, n := range ends {
		kind, _, special := strings.Cut(target, ":[")
		if kind == "pipe" && n > 1 || strings.HasSuffix(target, "/exec.fifo (deleted)") {
			continue
		}
		if !special {
			kind = target
		}
		found = append(found, slices.Repeat([]string{kind}, n)...)
	}
	return found
}
