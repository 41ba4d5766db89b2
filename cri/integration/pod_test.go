package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
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

// pod is a sandbox that its test removes at its end.
type pod struct {
	t      testing.TB
	d      *daemon
	id     string
	config *runtimeapi.PodSandboxConfig
}

type podOption func(*runtimeapi.PodSandboxConfig)

// podConfig is a pod as a kubelet asks for it: network and IPC of the pod, PIDs
// of the container.
func podConfig(t testing.TB, options ...podOption) *runtimeapi.PodSandboxConfig {
	t.Helper()
	name := fmt.Sprintf("p%08x", rand.Uint32())
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "it"},
		Hostname:     name,
		LogDirectory: t.TempDir(),
		Labels:       map[string]string{"test": "yes"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: cgroupParent(name),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			},
		},
	}
	for _, o := range options {
		o(config)
	}
	return config
}

// hostNetwork makes a pod that needs no CNI plugin, the quickest kind.
func hostNetwork(c *runtimeapi.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
}

// pids chooses the PID namespace.
func pids(mode runtimeapi.NamespaceMode) podOption {
	return func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = mode }
}

// privilegedPod allows privileged containers.
func privilegedPod(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }

// runPod runs a pod on the shared daemon and checks for leaks after it.
func runPod(t testing.TB, options ...podOption) *pod {
	t.Helper()
	checkLeaks(t, shared)
	return shared.runPod(t, options...)
}

func (d *daemon) runPod(t testing.TB, options ...podOption) *pod {
	t.Helper()
	config := podConfig(t, options...)
	id, err := d.runtime.RunPodSandbox(context.Background(), config, "")
	if err != nil {
		t.Fatalf("run a pod: %v", err)
	}
	p := &pod{t, d, id, config}
	t.Cleanup(p.remove)
	return p
}

// remove stops and removes the pod; twice is once.
func (p *pod) remove() {
	p.t.Helper()
	ctx := context.Background()
	if p.d.runtime == nil {
		return // a test that ended its daemon; its node removes all
	}
	if err := p.d.runtime.StopPodSandbox(ctx, p.id); err != nil {
		p.t.Errorf("stop the pod: %v", err)
	}
	if err := p.d.runtime.RemovePodSandbox(ctx, p.id); err != nil {
		p.t.Errorf("remove the pod: %v", err)
	}
	removeCgroups(p.t, p.config.Linux.CgroupParent)
}

// removeCgroups removes a pod's own cgroup, which a kubelet makes and removes.
func removeCgroups(t testing.TB, parent string) {
	t.Helper()
	if slice := filepath.Base(parent); systemdDriver && strings.HasSuffix(slice, ".slice") {
		// It may not be loaded any more; then there is nothing to stop.
		out, err := exec.Command("systemctl", "stop", slice).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "not loaded") {
			t.Errorf("stop the pod's slice: %v: %s", err, out)
		}
	}
	for _, root := range cgroupRoots(t) {
		if err := os.Remove(filepath.Join(root, parent)); err != nil && !os.IsNotExist(err) {
			t.Errorf("the pod's cgroup: %v", err)
		}
	}
}

func (p *pod) status() *runtimeapi.PodSandboxStatus {
	p.t.Helper()
	r, err := p.d.runtime.PodSandboxStatus(context.Background(), p.id, false)
	if err != nil {
		p.t.Fatalf("status of the pod: %v", err)
	}
	return r.Status
}

// ctr is a container of a pod.
type ctr struct {
	t    testing.TB
	pod  *pod
	id   string
	conf *runtimeapi.ContainerConfig
}

type ctrOption func(*runtimeapi.ContainerConfig)

// command makes the container run something else than a sleep.
func command(argv ...string) ctrOption {
	return func(c *runtimeapi.ContainerConfig) { c.Command, c.Args = argv, nil }
}

// shell makes the container run a script.
func shell(script string) ctrOption { return command("sh", "-c", script) }

// env adds to the environment.
func env(key, value string) ctrOption {
	return func(c *runtimeapi.ContainerConfig) {
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: key, Value: []byte(value)})
	}
}

// security changes the security context.
func security(change func(*runtimeapi.LinuxContainerSecurityContext)) ctrOption {
	return func(c *runtimeapi.ContainerConfig) { change(c.Linux.SecurityContext) }
}

// resources changes the limits.
func resources(change func(*runtimeapi.LinuxContainerResources)) ctrOption {
	return func(c *runtimeapi.ContainerConfig) { change(c.Linux.Resources) }
}

// containerConfig is a container as a kubelet asks for it; it sleeps.
func (p *pod) containerConfig(options ...ctrOption) *runtimeapi.ContainerConfig {
	name := fmt.Sprintf("c%08x", rand.Uint32())
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: busybox},
		Command:  []string{"sleep", "3600"},
		LogPath:  name + ".log",
		Labels:   map[string]string{"test": "yes"},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{
					Network: p.config.Linux.SecurityContext.NamespaceOptions.Network,
					Pid:     p.config.Linux.SecurityContext.NamespaceOptions.Pid,
					Ipc:     p.config.Linux.SecurityContext.NamespaceOptions.Ipc,
				},
				Seccomp:       &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				MaskedPaths:   []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"},
				ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
	for _, o := range options {
		o(c)
	}
	return c
}

// tryCreate creates a container, or does not.
func (p *pod) tryCreate(options ...ctrOption) (*ctr, error) {
	p.t.Helper()
	c := p.containerConfig(options...)
	if images, err := p.d.images.ListImages(context.Background(), nil); err != nil {
		return nil, err
	} else if len(images) == 0 || c.Image.Image != busybox {
		if st, err := p.d.images.ImageStatus(context.Background(), c.Image, false); err == nil && st.Image == nil {
			if _, err := p.d.images.PullImage(context.Background(), c.Image, nil, nil); err != nil {
				return nil, err
			}
		}
	}
	id, err := p.d.runtime.CreateContainer(context.Background(), p.id, c, p.config)
	if err != nil {
		return nil, err
	}
	return &ctr{p.t, p, id, c}, nil
}

func (p *pod) create(options ...ctrOption) *ctr {
	p.t.Helper()
	c, err := p.tryCreate(options...)
	if err != nil {
		p.t.Fatalf("create a container: %v", err)
	}
	return c
}

// run creates and starts a container.
func (p *pod) run(options ...ctrOption) *ctr {
	p.t.Helper()
	c := p.create(options...)
	c.start()
	return c
}

// output runs a container to its end and returns what it wrote to stdout.
func (p *pod) output(options ...ctrOption) string {
	p.t.Helper()
	c := p.run(options...)
	if s := c.wait(); s.ExitCode != 0 {
		p.t.Fatalf("the container ended with %d (%s): %s", s.ExitCode, s.Reason, c.logText())
	}
	return c.stdout()
}

func (c *ctr) start() {
	c.t.Helper()
	if err := c.pod.d.runtime.StartContainer(context.Background(), c.id); err != nil {
		c.t.Fatalf("start the container: %v", err)
	}
}

func (c *ctr) stop(timeout int64) {
	c.t.Helper()
	if err := c.pod.d.runtime.StopContainer(context.Background(), c.id, timeout); err != nil {
		c.t.Fatalf("stop the container: %v", err)
	}
}

func (c *ctr) status() *runtimeapi.ContainerStatus {
	c.t.Helper()
	r, err := c.pod.d.runtime.ContainerStatus(context.Background(), c.id, false)
	if err != nil {
		c.t.Fatalf("status of the container: %v", err)
	}
	return r.Status
}

// wait waits until the container has ended.
func (c *ctr) wait() *runtimeapi.ContainerStatus {
	c.t.Helper()
	var s *runtimeapi.ContainerStatus
	eventually(c.t, "the container ends", func() bool {
		s = c.status()
		return s.State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return s
}

// exec runs a command in the container and returns what it wrote to stdout.
func (c *ctr) exec(argv ...string) string {
	c.t.Helper()
	stdout, stderr, err := c.pod.d.runtime.ExecSync(context.Background(), c.id, argv, patience)
	if err != nil {
		c.t.Fatalf("exec %q: %v: %s%s", argv, err, stdout, stderr)
	}
	return string(stdout)
}

// sh runs a script in the container.
func (c *ctr) sh(script string) string {
	c.t.Helper()
	return strings.TrimSpace(c.exec("sh", "-c", script))
}

// logLine is one line of a CRI log.
type logLine struct {
	time         time.Time
	stream, text string
	partial      bool
}

func (c *ctr) logFile() string { return filepath.Join(c.pod.config.LogDirectory, c.conf.LogPath) }

// log parses the container's log.
func (c *ctr) log() []logLine {
	c.t.Helper()
	return parseLog(c.t, c.logFile())
}

func parseLog(t testing.TB, path string) []logLine {
	t.Helper()
	var data []byte
	// A write across pages shows up in parts.
	eventually(t, "the last line of the log is whole", func() bool {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			t.Fatalf("read the log: %v", err)
		}
		return len(data) == 0 || data[len(data)-1] == '\n'
	})
	var lines []logLine
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(parts) != 4 {
			t.Fatalf("%q is no line of a CRI log", line)
		}
		at, err := time.Parse(time.RFC3339Nano, parts[0])
		if err != nil || (parts[2] != "F" && parts[2] != "P") || (parts[1] != "stdout" && parts[1] != "stderr") {
			t.Fatalf("%q is no line of a CRI log: %v", line, err)
		}
		lines = append(lines, logLine{at, parts[1], parts[3], parts[2] == "P"})
	}
	return lines
}

// logText joins what the log has of a stream, or of both.
func (c *ctr) logText(stream ...string) string {
	c.t.Helper()
	var b strings.Builder
	for _, l := range c.log() {
		if len(stream) > 0 && l.stream != stream[0] {
			continue
		}
		b.WriteString(l.text)
		if !l.partial {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (c *ctr) stdout() string { return strings.TrimSpace(c.logText("stdout")) }

// patience is how long anything may take, on the slowest machine.
const patience = 2 * time.Minute

// eventually waits for what another process makes true.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("%s: not within %s", what, patience)
}

// same compares what was looked at with what should be there.
func same[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func atoi(t testing.TB, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		t.Fatalf("%q is no number", s)
	}
	return n
}

// sortTail sorts all words but the first two, which are a user and a group.
func sortTail(words []string) {
	if len(words) > 2 {
		slices.Sort(words[2:])
	}
}

// hostPid is the process ID of the container's first process on the host.
func (c *ctr) hostPid() string {
	c.t.Helper()
	r, err := c.pod.d.runtime.ContainerStatus(context.Background(), c.id, true)
	if err != nil {
		c.t.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid == 0 {
		c.t.Fatalf("no PID in %v: %v", r.Info, err)
	}
	return strconv.Itoa(info.Pid)
}

// file is where the node has a file of the container. Unlike an exec, a write to it is not
// cut off by the end of the container that it brings about.
func (c *ctr) file(path string) string {
	c.t.Helper()
	return filepath.Join("/proc", c.hostPid(), "root", path)
}

func itoa(n int) string { return strconv.Itoa(n) }
