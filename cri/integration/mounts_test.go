package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mount adds a mount.
func mount(host, container string, change ...func(*runtimeapi.Mount)) ctrOption {
	return func(c *runtimeapi.ContainerConfig) {
		m := &runtimeapi.Mount{HostPath: host, ContainerPath: container}
		for _, f := range change {
			f(m)
		}
		c.Mounts = append(c.Mounts, m)
	}
}

func readOnly(m *runtimeapi.Mount) { m.Readonly = true }

func propagation(p runtimeapi.MountPropagation) func(*runtimeapi.Mount) {
	return func(m *runtimeapi.Mount) { m.Propagation = p }
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMounts(t *testing.T) {
	p := runPod(t, hostNetwork)
	dir := t.TempDir()
	write(t, dir+"/data/file", "from the host")
	write(t, dir+"/single", "one file")
	if err := os.Symlink("data", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	c := p.run(
		mount(dir+"/data", "/data"),
		mount(dir+"/data", "/read only", readOnly),
		mount(dir+"/single", "/etc/single"),
		mount(dir+"/link", "/through/a/link"),
	)
	same(t, "a directory", c.sh("cat /data/file"), "from the host")
	same(t, "a file", c.sh("cat /etc/single"), "one file")
	same(t, "a link of the host", c.sh("cat /through/a/link/file"), "from the host")
	same(t, "a read-only mount", c.sh("cat '/read only/file'; echo x 2>/dev/null > '/read only/file' || echo refused"), "from the hostrefused")
	c.sh("echo -n from the container > /data/file")
	if got, err := os.ReadFile(dir + "/data/file"); err != nil || string(got) != "from the container" {
		t.Errorf("the host sees %q, %v", got, err)
	}
	mounts := c.status().Mounts
	same(t, "mounts in the status", len(mounts), 4)
	for _, m := range mounts {
		if m.ContainerPath == "/read only" && (!m.Readonly || m.HostPath != dir+"/data") {
			t.Errorf("the status has %v", m)
		}
	}
}

// bind makes dir a mount point, as the source of a mount with propagation has to
// be.
func bind(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Errorf("unmount %s: %v", dir, err)
	}
}

func TestMountPropagation(t *testing.T) {
	checkLeaks(t, shared)
	dir := filepath.Join(t.TempDir(), "source")
	bind(t, dir)
	for _, name := range []string{"private", "slave", "shared", "inner"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := shared.runPod(t, hostNetwork, privilegedPod)
	c := p.run(
		mount(dir, "/private", propagation(runtimeapi.MountPropagation_PROPAGATION_PRIVATE)),
		mount(dir, "/slave", propagation(runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER)),
		mount(dir, "/shared", propagation(runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL)),
		security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }),
	)
	if err := unix.Mount("tmpfs", dir+"/inner", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unmount(t, dir+"/inner")
	write(t, dir+"/inner/file", "mounted later")
	same(t, "private", c.sh("cat /private/inner/file 2>/dev/null || echo absent"), "absent")
	same(t, "host to container", c.sh("cat /slave/inner/file"), "mounted later")
	same(t, "bidirectional", c.sh("cat /shared/inner/file"), "mounted later")

	c.sh("mount -t tmpfs x /slave/slave && mount -t tmpfs x /private/private && mount -t tmpfs x /shared/shared")
	defer unmount(t, dir+"/shared")
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"private": false, "slave": false, "shared": true} {
		if got := strings.Contains(string(data), " "+dir+"/"+name+" "); got != want {
			t.Errorf("the host sees the container's mount below %s: %v", name, got)
		}
	}
}

func TestRecursiveReadOnlyMounts(t *testing.T) {
	checkLeaks(t, shared)
	dir := filepath.Join(t.TempDir(), "source")
	bind(t, dir)
	if err := os.MkdirAll(dir+"/inner", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir+"/inner", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unmount(t, dir+"/inner")
	p := shared.runPod(t, hostNetwork)
	c := p.run(
		mount(dir, "/ro", readOnly),
		mount(dir, "/rro", readOnly, func(m *runtimeapi.Mount) { m.RecursiveReadOnly = true }),
	)
	same(t, "read-only", c.sh("touch /ro/inner/x && echo written"), "written")
	same(t, "recursively", c.sh("touch /rro/inner/x 2>/dev/null || echo refused"), "refused")
	same(t, "the flag in the status", c.status().Mounts[1].RecursiveReadOnly, true)
}
