package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// Who the root of the pods below is on the node.
const (
	usernsUID = 200000
	usernsGID = 300000
)

func podUserNamespace() *runtimeapi.UserNamespace {
	return &runtimeapi.UserNamespace{
		Mode: runtimeapi.NamespaceMode_POD,
		Uids: []*runtimeapi.IDMapping{{HostId: usernsUID, Length: 65536}},
		Gids: []*runtimeapi.IDMapping{{HostId: usernsGID, Length: 65536}},
	}
}

// userNamespace gives the pod a user namespace of its own.
func userNamespace(c *runtimeapi.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = podUserNamespace()
}

func user(uid int64) ctrOption {
	return security(func(s securityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: uid} })
}

// ownerOnHost is who a file of the node belongs to.
func ownerOnHost(t testing.TB, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func TestUserNamespaceIsReported(t *testing.T) {
	r, err := shared.runtime.Status(context.Background(), true)
	if err != nil {
		t.Fatal(err)
	}
	if !r.RuntimeHandlers[0].Features.UserNamespaces {
		t.Errorf("the node has none: %s", r.Info["runtime"])
	}
	p := runPod(t, userNamespace)
	got := p.status().Linux.Namespaces.Options.UsernsOptions
	if got.GetMode() != runtimeapi.NamespaceMode_POD || got.GetUids()[0].GetHostId() != usernsUID {
		t.Errorf("the pod's status says %v", got)
	}
}

func TestUserNamespace(t *testing.T) {
	p := runPod(t, userNamespace, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}
	})
	c := p.run(shell("id; echo started; exec sleep 3600"))
	same(t, "the users", strings.Join(strings.Fields(c.sh("cat /proc/self/uid_map")), " "), fmt.Sprintf("0 %d 65536", usernsUID))
	same(t, "the groups", strings.Join(strings.Fields(c.sh("cat /proc/self/gid_map")), " "), fmt.Sprintf("0 %d 65536", usernsGID))
	same(t, "the process on the node", ownerOnHost(t, "/proc/"+c.hostPid()), fmt.Sprintf("%d:%d", usernsUID, usernsGID))
	for what, script := range map[string]string{
		"the root file system": "stat -c %u:%g / /bin /bin/busybox /etc/passwd | sort -u",
		"the pod's files":      "stat -c %u:%g /etc/resolv.conf /etc/hostname /dev/shm | sort -u",
		"the standard streams": "stat -L -c %u /proc/1/fd/1 /proc/1/fd/2 | sort -u | sed s/$/:0/",
	} {
		same(t, what, c.sh(script), "0:0")
	}
	same(t, "a file that is written", c.sh("echo x > /new && chown 7:8 /new && stat -c %u:%g /new"), "7:8")
	same(t, "a file that is changed", c.sh("echo x >> /etc/passwd && tail -n 1 /etc/passwd && stat -c %u:%g /etc/passwd"), "x\n0:0")
	same(t, "a name server", c.sh("echo '# mine' >> /etc/resolv.conf && tail -n 1 /etc/resolv.conf"), "# mine")
	same(t, "shared memory", c.sh("echo x > /dev/shm/x && stat -c %u:%g /dev/shm/x"), "0:0")
	same(t, "the standard output, opened again", c.sh("echo again > /proc/1/fd/1 && echo written"), "written")
	same(t, "a sysctl of IPC", c.sh("cat /proc/sys/kernel/shm_rmid_forced"), "1")
	same(t, "a sysctl of the network", c.sh("cat /proc/sys/net/ipv4/ip_forward"), "1")
	same(t, "the host name", c.sh("hostname"), p.config.Hostname)
	same(t, "the network", c.sh("ip -o addr show dev eth0 | grep -c 'inet '"), "1")
	same(t, "a device", c.sh("head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo taken"), "3\ntaken")
	same(t, "/sys", c.sh("awk '$5==\"/sys\"{print substr($6,1,2)}' /proc/self/mountinfo"), "ro")
	eventually(t, "the log has the container's output", func() bool { return strings.Contains(c.stdout(), "started") })
	if u := c.status().User.Linux; u.Uid != 0 || u.Gid != 0 {
		t.Errorf("the status has the user %v", u)
	}
	// What belongs to the node's IDs is nobody's, and closed.
	same(t, "the owner of the node's files", c.sh("stat -c %u:%g /proc/sys/kernel/core_pattern"), "65534:65534")
}

// Root's capabilities are those of its user namespace.
func TestUserNamespaceCapabilities(t *testing.T) {
	p := runPod(t, userNamespace)
	add := security(func(s securityContext) { s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}} })
	unconfined := security(func(s securityContext) { s.Seccomp = nil })
	// The default profile denies all mounts.
	unprofiled := appArmor(runtimeapi.SecurityProfile_Unconfined, "")
	c := p.run(add, unconfined, unprofiled, security(func(s securityContext) { s.MaskedPaths, s.ReadonlyPaths = nil, nil }))
	same(t, "an interface", c.sh("ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu"), "1400")
	same(t, "a mount", c.sh("mkdir /m && mount -t tmpfs x /m && echo mounted"), "mounted")
	same(t, "a device", c.sh("mknod /dev/mem2 c 1 1 2>/dev/null && echo made || echo refused"), "refused")
	same(t, "a setting of the node", c.sh("echo x 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused"), "refused")
	same(t, "the node's memory", c.sh("head -c 1 /proc/kcore 2>/dev/null >/dev/null || echo refused"), "refused")
	plain := p.run()
	same(t, "the capabilities without more", plain.procStatus("1", "CapEff"), fmt.Sprintf("%016x", defaultCaps))
	same(t, "those of an exec", plain.procStatus("self", "CapEff"), fmt.Sprintf("%016x", defaultCaps))
	same(t, "seccomp", plain.procStatus("self", "Seccomp"), "2")
}

func TestUserNamespaceUsers(t *testing.T) {
	p := runPod(t, userNamespace)
	c := p.run(user(unprivilegedUser), shell("id -u; echo written > /proc/self/fd/1; exec sleep 3600"),
		security(func(s securityContext) {
			s.RunAsGroup = &runtimeapi.Int64Value{Value: 2000}
			s.SupplementalGroups = []int64{3000}
			s.Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
		}))
	same(t, "the user", c.sh("id -u; id -g; id -G"), "1000\n2000\n2000 3000")
	same(t, "on the node", ownerOnHost(t, "/proc/"+c.hostPid()), fmt.Sprintf("%d:%d", usernsUID+unprivilegedUser, usernsGID+2000))
	same(t, "ambient capabilities", c.procStatus("1", "CapAmb"), fmt.Sprintf("%016x", capNetBind))
	eventually(t, "it can open its output again", func() bool { return strings.Contains(c.stdout(), "written") })
	// IDs that are not mapped.
	_, err := p.tryCreate(user(65536))
	wantCode(t, "a user that is not mapped", err, invalidArgument)
	_, err = p.tryCreate(security(func(s securityContext) { s.SupplementalGroups = []int64{70000} }))
	wantCode(t, "a group that is not mapped", err, invalidArgument)
}

func TestUserNamespaceExec(t *testing.T) {
	p := runPod(t, userNamespace)
	c := p.run()
	same(t, "the namespace of an exec", c.sh("readlink /proc/self/ns/user"), c.sh("readlink /proc/1/ns/user"))
	same(t, "its user", c.sh("id -u"), "0")
	same(t, "its errors", c.sh("echo x > /dev/stderr && echo written"), "written")
	tty := p.run(func(c *runtimeapi.ContainerConfig) { c.Tty, c.Stdin = true, true }, shell("tty; stat -c %u /dev/console; exec sleep 3600"))
	eventually(t, "a terminal is the container's", func() bool {
		return strings.Contains(tty.logText(), "/dev/pts/0") || strings.Contains(tty.logText(), "/dev/console")
	})
}

// Two containers share what is the pod's, and not their files.
func TestUserNamespaceIsThePods(t *testing.T) {
	p := runPod(t, userNamespace, pids(runtimeapi.NamespaceMode_POD))
	a, b := p.run(), p.run()
	same(t, "the user namespace", a.sh("readlink /proc/self/ns/user"), b.sh("readlink /proc/self/ns/user"))
	a.sh("echo a > /dev/shm/a; echo a > /mine")
	same(t, "shared memory", b.sh("cat /dev/shm/a; test -e /mine || echo none"), "a\nnone")
	same(t, "the other's processes", b.sh("ps | grep -c '[s]leep 3600'"), "2")
	same(t, "the pod's init", b.sh("stat -c %u:%g /proc/1; cat /proc/1/comm"), "0:0\nberth-pod")
	same(t, "its root", b.sh("ls /proc/1/root/ 2>/dev/null | wc -l"), "0")
	// A container in the PID namespace of another.
	target := p.run(security(func(s securityContext) {
		s.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		s.NamespaceOptions.TargetId = a.id
	}))
	same(t, "the PID namespace of a target", target.sh("readlink /proc/self/ns/pid"), a.sh("readlink /proc/self/ns/pid"))
	// Another pod with the same mapping has another namespace.
	q := shared.runPod(t, userNamespace)
	if a.sh("readlink /proc/self/ns/user") == q.run().sh("readlink /proc/self/ns/user") {
		t.Error("two pods share a user namespace")
	}
}

func TestUserNamespaceWithHostNamespaces(t *testing.T) {
	p := runPod(t, userNamespace, hostNetwork)
	c := p.run()
	same(t, "the network", c.sh("readlink /proc/self/ns/net"), mustReadlink(t, "/proc/self/ns/net"))
	same(t, "the interfaces in /sys", c.sh("test -d /sys/class/net/lo && echo there"), "there")
	same(t, "/sys", c.sh("touch /sys/kernel/x 2>/dev/null || echo refused; awk '$5~\"^/sys\" && $5!=\"/sys/fs/cgroup\" && substr($6,1,2)==\"rw\"' /proc/self/mountinfo | wc -l"), "refused\n0")
	same(t, "the node's network", c.sh("ip link set lo mtu 1400 2>/dev/null || echo refused"), "refused")
	q := shared.runPod(t, userNamespace, hostNetwork, pids(runtimeapi.NamespaceMode_NODE), func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
	})
	d := q.run()
	same(t, "the node's processes", d.sh("test -d /proc/"+d.hostPid()+" && echo there"), "there")
	same(t, "the node's IPC", d.sh("readlink /proc/self/ns/ipc"), mustReadlink(t, "/proc/self/ns/ipc"))
	same(t, "a signal to the node's processes", d.sh("kill -0 1 2>/dev/null || echo refused"), "refused")
}

func mustReadlink(t testing.TB, path string) string {
	t.Helper()
	link, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestUserNamespacePrivileged(t *testing.T) {
	p := runPod(t, userNamespace, privilegedPod)
	c := p.run(security(func(s securityContext) { s.Privileged = true }))
	same(t, "the user namespace", strings.Fields(c.sh("cat /proc/self/uid_map"))[1], fmt.Sprint(usernsUID))
	same(t, "a mount", c.sh("mkdir /m; mount -t tmpfs x /m && echo mounted"), "mounted")
	same(t, "a setting of the node", c.sh("echo x 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused"), "refused")
}

func TestUserNamespaceDevices(t *testing.T) {
	p := runPod(t, userNamespace)
	c := p.run(func(c *runtimeapi.ContainerConfig) {
		c.Devices = []*runtimeapi.Device{
			{HostPath: "/dev/full", ContainerPath: "/dev/full", Permissions: "rw"},
			// Mounted from another path: the node's /dev/null would be there otherwise.
			{HostPath: "/dev/zero", ContainerPath: "/dev/mine", Permissions: "r"},
		}
	})
	same(t, "a device", c.sh("head -c 4 /dev/mine | wc -c; stat -c %t:%T /dev/mine"), "4\n1:5")
	same(t, "another", c.sh("echo x 2>/dev/null > /dev/full || echo full"), "full")
}

// A volume's files belong to the same IDs on both sides of an ID-mapped mount.
func TestUserNamespaceVolumes(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "roots"), "x")
	if err := os.Lchown(write(t, filepath.Join(dir, "users"), "x"), 1000, 1001); err != nil {
		t.Fatal(err)
	}
	plain := t.TempDir()
	write(t, filepath.Join(plain, "f"), "x")
	ids := podUserNamespace()
	p := runPod(t, userNamespace)
	c := p.run(func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{HostPath: dir, ContainerPath: "/data", UidMappings: ids.Uids, GidMappings: ids.Gids},
			{HostPath: dir, ContainerPath: "/ro", Readonly: true, UidMappings: ids.Uids, GidMappings: ids.Gids},
			{HostPath: plain, ContainerPath: "/plain"},
			{HostPath: dir, ContainerPath: "/other", UidMappings: []*runtimeapi.IDMapping{{HostId: usernsUID + 10, Length: 100}}, GidMappings: ids.Gids},
		}
	})
	same(t, "the files", c.sh("stat -c %u:%g /data /data/roots /data/users"), "0:0\n0:0\n1000:1001")
	same(t, "a new file", c.sh("echo x > /data/new && chown 5:6 /data/new && stat -c %u:%g /data/new"), "5:6")
	same(t, "the new file on the node", ownerOnHost(t, filepath.Join(dir, "new")), "5:6")
	same(t, "a read-only one", c.sh("touch /ro/x 2>/dev/null || echo refused; stat -c %u:%g /ro/users"), "refused\n1000:1001")
	same(t, "one without mapping", c.sh("stat -c %u:%g /plain/f; echo x 2>/dev/null > /plain/f || echo refused"), "65534:65534\nrefused")
	same(t, "one mapped otherwise", c.sh("stat -c %u:%g /other/roots"), "10:0")
}

// What an image brings as a volume belongs to the pod's IDs too, of each pod to its own.
func TestUserNamespaceImageVolumes(t *testing.T) {
	image := func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{Image: &runtimeapi.ImageSpec{Image: busybox}, ContainerPath: "/image"}}
	}
	p := runPod(t, userNamespace)
	q := shared.runPod(t, hostNetwork)
	r := shared.runPod(t, userNamespace, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Uids[0].HostId += 1 << 20
	})
	for _, pod := range []*pod{p, q, r, p} {
		same(t, "the files of an image", pod.run(image).sh("stat -c %u:%g /image /image/bin/busybox | sort -u"), "0:0")
	}
	declared := hostileImage(t, "declared", func(i *imagetest.Image) {
		i.Config.Config.Volumes = map[string]struct{}{"/data": {}}
	}, imagetest.Dir("data", 0o750).Owned(5, 6), imagetest.File("data/f", "x", 0o640).Owned(7, 8))
	c := p.run(declared)
	same(t, "a volume that the image declares", c.sh("stat -c %u:%g /data /data/f; echo x >> /data/f && touch /data/new && stat -c %u:%g /data/new"), "5:6\n7:8\n0:0")
}

func TestUserNamespaceMaskedPaths(t *testing.T) {
	checkMaskedPaths(t, runPod(t, userNamespace))
}

// The limits of the pod's cgroup hold (CVE-2025-47291).
func TestUserNamespaceCgroup(t *testing.T) {
	p := runPod(t, userNamespace)
	c := p.run(resources(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 64 << 20 }))
	data, err := os.ReadFile("/proc/" + c.hostPid() + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), p.config.Linux.CgroupParent+"/") {
		t.Errorf("the container's cgroups are\n%s", data)
	}
	same(t, "a cgroup", c.sh("for f in /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/cgroup.procs; do test -e $f && { echo 1 2>/dev/null > $f || echo refused; }; done; true"), "refused")
}

func TestUserNamespaceRefused(t *testing.T) {
	good := podUserNamespace()
	for name, u := range map[string]*runtimeapi.UserNamespace{
		"two mappings":         {Uids: append(podUserNamespace().Uids, &runtimeapi.IDMapping{HostId: 2000, ContainerId: 70000, Length: 10}), Gids: good.Gids},
		"root is not mapped":   {Uids: []*runtimeapi.IDMapping{{ContainerId: 1, HostId: 1000, Length: 1000}}, Gids: good.Gids},
		"no mapping":           {},
		"the container's mode": {Mode: runtimeapi.NamespaceMode_CONTAINER, Uids: good.Uids, Gids: good.Gids},
		"a target's":           {Mode: runtimeapi.NamespaceMode_TARGET, Uids: good.Uids, Gids: good.Gids},
	} {
		config := podConfig(t)
		config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = u
		_, err := shared.runtime.RunPodSandbox(context.Background(), config, "")
		wantCode(t, name, err, invalidArgument)
	}
	p := runPod(t, userNamespace)
	_, err := p.tryCreate(security(func(s securityContext) {
		s.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}
	}))
	wantCode(t, "a container in the node's", err, invalidArgument)
	q := shared.runPod(t)
	_, err = q.tryCreate(security(func(s securityContext) { s.NamespaceOptions.UsernsOptions = podUserNamespace() }))
	wantCode(t, "a container with one of its own", err, invalidArgument)
}

// The pod survives the end of each program, and goes without a trace.
func TestUserNamespaceOutlivesThePrograms(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t, userNamespace, pids(runtimeapi.NamespaceMode_POD))
	c := p.run()
	before := c.sh("readlink /proc/self/ns/user")
	d.restart(t, syscall.SIGKILL)
	same(t, "the user namespace after berthd's end", c.sh("readlink /proc/self/ns/user"), before)
	old := d.monitor(t)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another monitor", func() bool {
		now, err := d.MonitorPID()
		return err == nil && now != 0 && now != old
	})
	eventually(t, "exec works again", func() bool {
		_, _, err := d.runtime.ExecSync(t.Context(), c.id, []string{"true"}, 0)
		return err == nil
	})
	same(t, "the user namespace after the monitor's end", c.sh("readlink /proc/self/ns/user; id -u"), before+"\n0")
	e := p.run()
	same(t, "that of a new container", e.sh("readlink /proc/self/ns/user"), before)
	if out := e.sh("ip -o addr show dev eth0 | wc -l"); out == "0" {
		t.Error("the network is gone")
	}
	p.remove()
	checkNothingLeft(t, d)
}

// A program of another runtime gives what the built-in one gives.
func TestUserNamespaceOfAnotherHandler(t *testing.T) {
	d := ownDaemon(t, fmt.Sprintf("runtimes:\n  runc: {path: %s}\n", runc(t)))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "x")
	ids := podUserNamespace()
	p := d.runPodBy(t, "runc", userNamespace, pids(runtimeapi.NamespaceMode_POD))
	c := p.run(func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/data", UidMappings: ids.Uids, GidMappings: ids.Gids}}
	})
	same(t, "the process on the node", ownerOnHost(t, "/proc/"+c.hostPid()), fmt.Sprintf("%d:%d", usernsUID, usernsGID))
	same(t, "the files", c.sh("stat -c %u:%g / /bin/busybox /etc/resolv.conf /data/f | sort -u"), "0:0")
	same(t, "its errors", c.sh("echo x > /dev/stderr && echo written"), "written")
	same(t, "its output", c.sh("echo x > /proc/$(pidof sleep)/fd/1 && echo written"), "written")
	p.remove()
	checkNothingLeft(t, d)
}
