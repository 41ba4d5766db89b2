package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The contexts of the policy that the virtual machine loads (hack/vm/selinux), but for
// their level.
const (
	processContext = "system_u:system_r:container_t:"
	fileContext    = "system_u:object_r:container_file_t:"
)

// selinuxPolicy is true where the kernel has SELinux and a policy.
func selinuxPolicy(t testing.TB) bool {
	t.Helper()
	_, err := os.Stat("/sys/fs/selinux/enforce")
	on := err == nil && attribute(t, "/proc/self/attr/current") != "kernel"
	if os.Getenv("BERTH_TEST_SELINUX") != "" && !on {
		t.Fatal("no SELinux policy is loaded")
	}
	return on
}

func attribute(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(data), "\x00\n")
}

// processLabel and fileLabel are what the node sees of a container.
func (c *ctr) processLabel() string { return attribute(c.t, "/proc/"+c.hostPid()+"/attr/current") }

func (c *ctr) fileLabel(path string) string {
	c.t.Helper()
	return labelOf(c.t, filepath.Join("/proc", c.hostPid(), "root", path))
}

func labelOf(t testing.TB, path string) string {
	t.Helper()
	value := make([]byte, 256)
	n, err := unix.Getxattr(path, "security.selinux", value)
	if err != nil {
		t.Fatalf("label of %s: %v", path, err)
	}
	return strings.TrimRight(string(value[:n]), "\x00")
}

func podLabel(o *runtimeapi.SELinuxOption) podOption {
	return func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.SelinuxOptions = o }
}

func selinuxOptions(o *runtimeapi.SELinuxOption) ctrOption {
	return security(func(s securityContext) { s.SelinuxOptions = o })
}

func relabelled(dir, at string) ctrOption {
	return func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: dir, ContainerPath: at, SelinuxRelabel: true})
	}
}

// Without SELinux, or with a kernel that has no policy, what requests say of it means
// nothing.
func TestSELinuxWithoutPolicy(t *testing.T) {
	if selinuxPolicy(t) {
		return // TestSELinux looks at that
	}
	asked := &runtimeapi.SELinuxOption{User: "a_u", Role: "a_r", Type: "a_t", Level: "s0:c1,c2"}
	p := runPod(t, podLabel(asked))
	dir := shortDir(t)
	file := write(t, dir+"/file", "text")
	c := p.run(selinuxOptions(asked), relabelled(dir, "/volume"))
	same(t, "the volume", c.sh("cat /volume/file"), "text")
	if n, err := unix.Getxattr(file, "security.selinux", nil); err == nil && n > 0 {
		t.Errorf("the volume got a label")
	}
}

func TestSELinux(t *testing.T) {
	if !selinuxPolicy(t) {
		return // TestSELinuxWithoutPolicy looks at that
	}
	p, other := runPod(t, pids(runtimeapi.NamespaceMode_POD)), shared.runPod(t, privilegedPod)
	volume, foreign := shortDir(t), shortDir(t)
	write(t, volume+"/dir/file", "text")
	c := p.run(relabelled(volume, "/volume"), func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: foreign, ContainerPath: "/foreign"})
	})
	level := strings.TrimPrefix(c.processLabel(), processContext)
	if !regexp.MustCompile(`^s0:c\d+,c\d+$`).MatchString(level) {
		t.Fatalf("the process has the label %q", c.processLabel())
	}
	same(t, "an exec", c.sh("tr -d '\\0' < /proc/self/attr/current"), processContext+level)
	for _, path := range []string{"/", "/bin/sh", "/dev", "/dev/shm", "/dev/mqueue", "/etc/resolv.conf", "/etc/hostname", "/volume", "/volume/dir/file"} {
		same(t, path, c.fileLabel(path), fileContext+level)
	}
	if got := labelOf(t, foreign); strings.HasPrefix(got, fileContext) {
		t.Errorf("a mount of which the request does not say so has the label %q", got)
	}
	same(t, "another container of the pod", p.run().processLabel(), processContext+level)

	same(t, "the init of the pod", c.sh("tr -d '\\0' < /proc/1/attr/current"), processContext+level)

	own := p.run(selinuxOptions(&runtimeapi.SELinuxOption{User: "other_u", Type: "special_t", Level: "s0:c1,c2"}))
	same(t, "what a container asks for", own.processLabel(), "other_u:system_r:special_t:s0:c1,c2")
	same(t, "its files", own.fileLabel("/bin/sh"), "other_u:object_r:container_file_t:s0:c1,c2")
	if got := other.run().processLabel(); got == processContext+level || !strings.HasPrefix(got, processContext) {
		t.Errorf("a container of another pod has the label %q", got)
	}
	privileged := other.run(security(func(s securityContext) { s.Privileged = true }))
	same(t, "a privileged container", privileged.processLabel(), attribute(t, "/proc/self/attr/current"))
	asked := shared.runPod(t, podLabel(&runtimeapi.SELinuxOption{Level: "s0:c5,c6"}))
	same(t, "what a pod asks for", asked.run().processLabel(), processContext+"s0:c5,c6")
	mapped := shared.runPod(t, hostNetwork, userNamespace).run()
	same(t, "the message queues of a pod with a user namespace", mapped.fileLabel("/dev/mqueue"), fileContext+strings.TrimPrefix(mapped.processLabel(), processContext))
}

func TestSELinuxRefusals(t *testing.T) {
	if !selinuxPolicy(t) {
		return
	}
	p := runPod(t)
	_, err := p.tryCreate(selinuxOptions(&runtimeapi.SELinuxOption{Type: "nosuch_t"}))
	wantCode(t, "a type that the policy does not have", err, invalidArgument)
	for _, path := range []string{"/etc/hosts", "/etc", "/usr/bin", "/tmp", "/var/lib"} {
		before := labelOf(t, path)
		_, err := p.tryCreate(relabelled(path, "/volume"))
		wantCode(t, "a label for "+path, err, invalidArgument)
		same(t, path, labelOf(t, path), before)
	}
	same(t, "containers", p.containers(), 0)
}
