package kubelettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-cri/berth/hack/testnode"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

// patience bounds the wait for anything a kubelet does: it looks once a second or two,
// and backs off for ten seconds before a container's second start.
const patience = 90 * time.Second

// suite is a kubelet on a Berth node, and the image that its pods run.
type suite struct {
	node    *testnode.Node
	kubelet *kubelet
	image   string
}

func TestKubelet(t *testing.T) {
	s := start(t)
	t.Run("pods", func(t *testing.T) {
		for name, scenario := range map[string]func(*suite, *testing.T){
			"ready through an HTTP probe over the pod network": (*suite).httpReady,
			"ready through an exec probe":                      (*suite).execReady,
			"liveness failure restarts and keeps the log":      (*suite).liveness,
			"init containers and a sidecar":                    (*suite).initAndSidecar,
			"shared process namespace":                         (*suite).sharedProcesses,
			"volumes":                                          (*suite).volumes,
			"exec and logs through the kubelet's API":          (*suite).execAndLogs,
			"termination within the grace period":              (*suite).termination,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				scenario(s, t)
			})
		}
	})
	t.Run("restarts of berthd and kubelet change nothing", s.restarts)
	t.Run("nothing is left", s.nothingLeft)
}

// start starts a registry, a Berth node and a kubelet, and ends them with the test.
func start(t *testing.T) *suite {
	t.Helper()
	root, err := filepath.Abs("../..")
	must(t, err)
	kubeletBinary := filepath.Join(root, ".cache", "kubelet")
	if _, err := os.Stat(kubeletBinary); err != nil {
		t.Fatalf("%v: build it with make test-kubelet", err)
	}
	// Not t.TempDir: its path names the test, and is too long for a Unix socket's.
	dir, err := os.MkdirTemp("", "berth-kubelet-")
	must(t, err)
	node, err := testnode.New(testnode.Options{Dir: dir, Bin: filepath.Join(root, "bin"), Bridge: "berthkubelet", Subnet: 77})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, dir)
		}
		if err := node.Close(context.Background()); err != nil {
			t.Errorf("close the node: %v", err)
		}
	})
	must(t, node.Start(t.Context()))

	s := &suite{node: node, image: serveImage(t)}
	s.kubelet = &kubelet{
		binary: kubeletBinary, dir: filepath.Join(dir, "kubelet"), socket: node.Socket,
		port: freePort(t), readOnly: freePort(t), healthz: freePort(t),
		cgroup: fmt.Sprintf("/berth-kubelet-%d", os.Getpid()),
	}
	makeCgroup(t, s.kubelet.cgroup)
	t.Cleanup(func() { must(t, s.kubelet.stop()) })
	must(t, s.kubelet.start(t.Context()))
	return s
}

// serveImage serves a busybox image on loopback until the test ends.
func serveImage(t *testing.T) string {
	t.Helper()
	image, err := imagetest.Busybox()
	must(t, err)
	registry, err := imagetest.Serve("127.0.0.1:0")
	must(t, err)
	t.Cleanup(registry.Close)
	ref, err := registry.Push("kubelet/busybox", "latest", image)
	must(t, err)
	return ref
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// showLogs prints the ends of the programs' logs: the directory is removed with the test.
func showLogs(t *testing.T, dir string) {
	for _, log := range []string{"berthd.log", "run/monitor/monitor.log", "kubelet/kubelet.log"} {
		data, _ := os.ReadFile(filepath.Join(dir, log))
		t.Logf("end of %s:\n%s", log, data[max(0, len(data)-64<<10):])
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// makeCgroup makes the cgroup that the kubelet expects to find, in every hierarchy, and
// removes it, with what the kubelet made in it, after the test.
func makeCgroup(t *testing.T, name string) {
	t.Helper()
	roots, err := cgroupRoots()
	must(t, err)
	for _, root := range roots {
		dir := filepath.Join(root, name)
		must(t, os.MkdirAll(dir, 0o755))
		inheritCpuset(t, root, dir)
		t.Cleanup(func() { removeCgroups(dir) })
	}
}

// inheritCpuset gives a new cgroup v1 of the cpuset controller its parent's CPUs and
// memory nodes; without them no process can join it.
func inheritCpuset(t *testing.T, root, dir string) {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || filepath.Base(root) != "cpuset" {
			return
		}
		must(t, os.WriteFile(filepath.Join(dir, file), value, 0o644))
	}
}

// removeCgroups removes a tree of cgroups from its leaves on.
func removeCgroups(dir string) {
	children, _ := os.ReadDir(dir)
	for _, c := range children {
		if c.IsDir() {
			removeCgroups(filepath.Join(dir, c.Name()))
		}
	}
	syscall.Rmdir(dir)
}

// run applies the pod, waits until it is as wanted, and has it removed after the test.
func (s *suite) run(t *testing.T, pod *corev1.Pod, wanted string, is func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	must(t, s.kubelet.apply(pod))
	t.Cleanup(func() { s.end(t, pod.Name) })
	return s.await(t, pod.Name, wanted, is)
}

// await waits until the pod is as wanted.
func (s *suite) await(t *testing.T, name, wanted string, is func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var last *corev1.Pod
	eventually(t, name+": "+wanted, func() error {
		pod, err := s.kubelet.pod(t.Context(), name)
		if err != nil {
			return err
		}
		last = pod
		if pod == nil || !is(pod) {
			return fmt.Errorf("its status is %s", describe(pod))
		}
		return nil
	})
	return last
}

// end removes the pod's manifest and waits until the kubelet has ended it.
func (s *suite) end(t *testing.T, name string) {
	t.Helper()
	if err := s.kubelet.remove(name); errors.Is(err, os.ErrNotExist) {
		return // the scenario has ended it itself
	}
	eventually(t, name+": gone", func() error {
		pod, err := s.kubelet.pod(context.Background(), name)
		if err == nil && pod != nil {
			err = fmt.Errorf("its status is %s", describe(pod))
		}
		return err
	})
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %s: %v", what, patience, err)
}

func describe(pod *corev1.Pod) string {
	if pod == nil {
		return "unknown"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s", pod.Status.Phase)
	for _, c := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		fmt.Fprintf(&b, "; %s ready=%t restarts=%d %v", c.Name, c.Ready, c.RestartCount, c.State)
	}
	return b.String()
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (s *suite) httpReady(t *testing.T) {
	web := shell(s.image, "web", "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www")
	web.ReadinessProbe = httpProbe("/index.html", 8080)
	pod := s.run(t, staticPod("http", web), "ready", ready)
	if pod.Status.PodIP == "" || len(pod.Status.PodIPs) != 2 {
		t.Errorf("pod IPs %v, want one IPv4 and one IPv6 address", pod.Status.PodIPs)
	}
}

func (s *suite) execReady(t *testing.T) {
	probed := shell(s.image, "probed", "sleep 2; touch /tmp/ready"+forever)
	probed.ReadinessProbe = execProbe(60, "test", "-e", "/tmp/ready")
	pod := staticPod("exec-probe", probed)
	pod.Spec.Volumes = []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "tmp", MountPath: "/tmp"}}
	s.run(t, pod, "ready", ready)
}

func (s *suite) liveness(t *testing.T) {
	// The first run dies of its probe, the second lives: the volume remembers.
	sick := shell(s.image, "sick", "n=$(cat /data/n 2>/dev/null || echo 0); echo run $n; echo $((n+1)) > /data/n; [ $n = 0 ] || touch /data/well"+forever)
	sick.LivenessProbe = execProbe(2, "test", "-e", "/data/well")
	sick.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	pod := staticPod("liveness", sick)
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	s.run(t, pod, "restarted once and ready", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1 && ready(p)
	})
	s.expectLog(t, "liveness", "sick", true, "run 0\n")
	s.expectLog(t, "liveness", "sick", false, "run 1\n")
}

func (s *suite) expectLog(t *testing.T, pod, container string, previous bool, want string) {
	t.Helper()
	eventually(t, "log of "+container, func() error {
		got, err := s.kubelet.logs(t.Context(), pod, container, previous)
		if err == nil && got != want {
			err = fmt.Errorf("got %q, want %q", got, want)
		}
		return err
	})
}

func (s *suite) initAndSidecar(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	order := []corev1.VolumeMount{{Name: "order", MountPath: "/order"}}
	first := shell(s.image, "first", "echo first >> /order/log")
	sidecar := shell(s.image, "sidecar", "echo sidecar >> /order/log"+forever)
	sidecar.RestartPolicy = &always
	second := shell(s.image, "second", "echo second >> /order/log")
	main := shell(s.image, "main", "echo main >> /order/log; cat /order/log"+forever)
	pod := staticPod("init", main)
	pod.Spec.InitContainers = []corev1.Container{first, sidecar, second}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			list[i].VolumeMounts = order
		}
	}
	pod.Spec.Volumes = []corev1.Volume{{Name: "order", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	got := s.run(t, pod, "ready", ready)
	s.expectLog(t, "init", "main", false, "first\nsidecar\nsecond\nmain\n")
	for _, c := range got.Status.InitContainerStatuses {
		if c.Name == "sidecar" && c.State.Running == nil {
			t.Errorf("the sidecar does not run: %v", c.State)
		}
	}
}

func (s *suite) sharedProcesses(t *testing.T) {
	share := true
	pod := staticPod("shared", shell(s.image, "one", "exec sleep 4321"), shell(s.image, "two", "true"+forever))
	pod.Spec.ShareProcessNamespace = &share
	s.run(t, pod, "ready", ready)
	processes, err := s.kubelet.exec(t.Context(), "shared", "two", "", "ps", "-o", "pid,args")
	must(t, err)
	if !strings.Contains(processes, "sleep 4321") {
		t.Errorf("container two does not see the process of container one:\n%s", processes)
	}
	first, err := s.kubelet.exec(t.Context(), "shared", "two", "", "cat", "/proc/1/comm")
	must(t, err)
	if strings.TrimSpace(first) != "berth-pod" {
		t.Errorf("process 1 of the pod is %q, want the pod's init", first)
	}
}

func (s *suite) volumes(t *testing.T) {
	host := t.TempDir()
	must(t, os.WriteFile(filepath.Join(host, "in"), []byte("from the host"), 0o644))
	directory := corev1.HostPathDirectory
	c := shell(s.image, "c", "cat /host/in > /host/out; echo x > /disk/x; echo x > /memory/x; true"+forever)
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "host", MountPath: "/host"}, {Name: "disk", MountPath: "/disk"},
		{Name: "memory", MountPath: "/memory"}, {Name: "projected", MountPath: "/projected", ReadOnly: true},
	}
	pod := staticPod("volumes", c)
	pod.Labels = map[string]string{"colour": "blue"}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: &directory}}},
		{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		// A volume of type projected needs an API server; this one is projected the same way.
		{Name: "projected", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			Items: []corev1.DownwardAPIVolumeFile{{
				Path: "labels", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.labels"},
			}},
		}}},
	}
	s.run(t, pod, "ready", ready)
	eventually(t, "the file written through the hostPath", func() error {
		out, err := os.ReadFile(filepath.Join(host, "out"))
		if err == nil && string(out) != "from the host" {
			err = fmt.Errorf("it holds %q", out)
		}
		return err
	})
	for path, want := range map[string]string{
		"grep ' /memory ' /proc/mounts":      "tmpfs",
		"cat /projected/labels":              `colour="blue"`,
		"cat /disk/x":                        "x",
		"touch /projected/new 2>&1; echo $?": "1",
	} {
		got, err := s.kubelet.exec(t.Context(), "volumes", "c", "", "sh", "-c", path)
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %q, %v; want %q in it", path, got, err, want)
		}
	}
}

func (s *suite) execAndLogs(t *testing.T) {
	s.run(t, staticPod("api", shell(s.image, "c", "echo to stdout; echo to stderr >&2"+forever)), "ready", ready)
	eventually(t, "both lines in the log", func() error {
		got, err := s.kubelet.logs(t.Context(), "api", "c", false)
		if err == nil && (!strings.Contains(got, "to stdout\n") || !strings.Contains(got, "to stderr\n")) {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
	got, err := s.kubelet.exec(t.Context(), "api", "c", "through the API", "cat")
	if err != nil || got != "through the API" {
		t.Errorf("exec of cat: %q, %v", got, err)
	}
	if _, err := s.kubelet.exec(t.Context(), "api", "c", "", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "7") {
		t.Errorf("exec of exit 7: %v, want its exit code", err)
	}
}

func (s *suite) termination(t *testing.T) {
	host := t.TempDir()
	polite := shell(s.image, "polite", "trap 'echo ended > /host/ended; exit 0' TERM; while :; do sleep 1 & wait $!; done")
	stubborn := shell(s.image, "stubborn", "trap '' TERM; while :; do sleep 1; done")
	polite.VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
	pod := staticPod("termination", polite, stubborn)
	grace := int64(3)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	pod.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}}}
	s.run(t, pod, "ready", ready)
	s.end(t, "termination")
	eventually(t, "the container's mark that it was asked to end", func() error {
		_, err := os.Stat(filepath.Join(host, "ended"))
		return err
	})
}

// restarts kills and stops berthd, and stops the kubelet, under a running pod.
func (s *suite) restarts(t *testing.T) {
	before := s.run(t, staticPod("steady", shell(s.image, "a", "true"+forever), shell(s.image, "b", "true"+forever)), "ready", ready)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		if err := s.node.Stop(signal); err != nil {
			t.Fatal(err)
		}
		must(t, s.node.Start(t.Context()))
		s.unchanged(t, before)
	}
	must(t, s.kubelet.stop())
	must(t, s.kubelet.start(t.Context()))
	s.unchanged(t, before)
}

// unchanged waits until the kubelet has looked again and found the same containers.
func (s *suite) unchanged(t *testing.T, before *corev1.Pod) {
	t.Helper()
	time.Sleep(5 * time.Second) // several of its looks
	after := s.await(t, "steady", "ready again", ready)
	for i, c := range after.Status.ContainerStatuses {
		was := before.Status.ContainerStatuses[i]
		if c.ContainerID != was.ContainerID || c.RestartCount != was.RestartCount {
			t.Errorf("container %s is %s with %s restarts, was %s with %s", c.Name,
				c.ContainerID, strconv.Itoa(int(c.RestartCount)), was.ContainerID, strconv.Itoa(int(was.RestartCount)))
		}
	}
}

// nothingLeft runs last, when every scenario has removed its manifest.
func (s *suite) nothingLeft(t *testing.T) {
	eventually(t, "nothing is left of the pods", func() error {
		found, err := leftovers(t.Context(), s.node, s.kubelet)
		if err == nil && len(found) > 0 {
			err = errors.New(strings.Join(found, ", "))
		}
		return err
	})
}
