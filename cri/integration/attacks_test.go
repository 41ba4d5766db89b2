package integration

import (
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

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// What has gone wrong in container runtimes: hostile images, volumes and requests.

// hostileImage is a busybox with more entries and another configuration.
func hostileImage(t *testing.T, name string, change func(*imagetest.Image), entries ...imagetest.Entry) ctrOption {
	t.Helper()
	base, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	image := *base
	image.Layers = slices.Clone(base.Layers)
	if len(entries) > 0 {
		image.Layers = append(image.Layers, imagetest.NewLayer(imagetest.Tar(entries...), imagetest.Gzip))
	}
	if change != nil {
		change(&image)
	}
	ref, err := registry.Push("hostile-"+name, "v1", &image)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref }
}

// decoy is a directory of the node that no container may reach, and a check that it
// is as it was.
func decoy(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	write(t, filepath.Join(dir, "secret"), "secret")
	t.Cleanup(func() {
		list, err := os.ReadDir(dir)
		if err != nil || len(list) != 1 {
			t.Errorf("the node's directory holds %v, %v", list, err)
		}
		if data, err := os.ReadFile(filepath.Join(dir, "secret")); err != nil || string(data) != "secret" {
			t.Errorf("the node's file holds %q, %v", data, err)
		}
	})
	return dir
}

// mustNotStart creates and starts a container, one of which has to fail.
func (p *pod) mustNotStart(what string, options ...ctrOption) {
	p.t.Helper()
	c, err := p.tryCreate(options...)
	if err != nil {
		return
	}
	if err := p.d.runtime.StartContainer(context.Background(), c.id); err == nil {
		p.t.Errorf("%s: the container runs", what)
	}
}

// /proc or /sys of the image leads elsewhere: what is mounted there would be at a place of
// the image's choice (CVE-2019-19921, CVE-2023-27561, CVE-2023-28642).
func TestImageWhoseProcIsALink(t *testing.T) {
	for _, options := range [][]podOption{{hostNetwork}, {userNamespace}} {
		p := runPod(t, options...)
		for _, dir := range []string{"proc", "sys"} {
			p.mustNotStart("a link at /"+dir, hostileImage(t, dir, nil, imagetest.Dir("elsewhere", 0o755), imagetest.Symlink(dir, "/elsewhere")))
		}
	}
}

// What the runtime makes in a root file system stays there, whatever leads out of it:
// devices (CVE-2026-41579), /etc (CVE-2024-5154, CVE-2025-24965), single files.
func TestImageWhoseDirectoriesAreLinks(t *testing.T) {
	host := decoy(t)
	out := strings.Repeat("../", 12) + strings.TrimPrefix(host, "/")
	p := runPod(t, hostNetwork)
	for name, entries := range map[string][]imagetest.Entry{
		"dev":        {imagetest.Symlink("dev", host)},
		"dev-climbs": {imagetest.Symlink("dev", out)},
		"etc":        {imagetest.Symlink("etc", host)},
		"resolv":     {imagetest.Dir("etc", 0o755), imagetest.Symlink("etc/resolv.conf", host+"/resolv.conf")},
		"hostname":   {imagetest.Dir("etc", 0o755), imagetest.Symlink("etc/hostname", out+"/secret")},
		"shm":        {imagetest.Dir("dev", 0o755), imagetest.Symlink("dev/shm", host)},
	} {
		c, err := p.tryCreate(hostileImage(t, name, nil, entries...))
		if err != nil {
			continue
		}
		if err := shared.runtime.StartContainer(context.Background(), c.id); err != nil {
			continue
		}
		same(t, name+": the node's file", c.sh("cat "+host+"/secret 2>/dev/null | grep -c '^secret$'; true"), "0")
		c.sh("echo overwritten > /etc/resolv.conf; echo overwritten > /etc/hostname; true")
	}
}

// A working directory that goes through an open file of the runtime (CVE-2024-21626), or a
// link of the image (CVE-2026-55686): nothing of the node can be seen from there, and nothing
// is made on it.
func TestWorkingDirectoryOutside(t *testing.T) {
	host := decoy(t)
	p := runPod(t, hostNetwork)
	good := p.run()
	for fd := 3; fd < 24; fd++ {
		dir := fmt.Sprintf("/proc/self/fd/%d", fd)
		_, err := p.tryCreate(func(c *runtimeapi.ContainerConfig) { c.WorkingDir = dir })
		wantCode(t, dir+" in a request", err, invalidArgument)
	}
	image := func(name, dir string, entries ...imagetest.Entry) ctrOption {
		return hostileImage(t, name, func(i *imagetest.Image) { i.Config.Config.WorkingDir = dir }, entries...)
	}
	for fd := 3; fd < 24; fd += 4 {
		dir := fmt.Sprintf("/proc/self/fd/%d", fd)
		p.mustNotStart(dir+" of an image", image(fmt.Sprint("cwd-", fd), dir))
		p.mustNotStart("a link to "+dir, image(fmt.Sprint("cwd-link-", fd), "/link", imagetest.Symlink("link", dir)))
		p.mustNotStart("below a link to "+dir, image(fmt.Sprint("cwd-below-", fd), "/link/new/directory", imagetest.Symlink("link", dir)))
	}
	c, err := p.tryCreate(image("cwd-host", "/link/made", imagetest.Symlink("link", host)), shell("pwd -P; exec sleep 3600"))
	if err == nil && shared.runtime.StartContainer(context.Background(), c.id) == nil {
		same(t, "the node's file", c.sh("cat "+host+"/secret 2>/dev/null | wc -c"), "0")
	}
	same(t, "an exec has the container's directory", good.sh("pwd"), "/")
}

// Volumes that an image declares lie in its root file system (CVE-2022-23648), and never over
// what the runtime trusts (CVE-2019-16884).
func TestImageThatDeclaresVolumesOutside(t *testing.T) {
	host := decoy(t)
	p := runPod(t, hostNetwork)
	for name, volume := range map[string]string{
		"climbs": "/" + strings.Repeat("../", 12) + strings.TrimPrefix(host, "/"), "relative": strings.Repeat("../", 12) + host,
		"proc": "/proc", "attributes": "/proc/self/attr", "root": "/", "linked": "/link",
	} {
		image := hostileImage(t, "volume-"+name, func(i *imagetest.Image) {
			i.Config.Config.Volumes = map[string]struct{}{volume: {}}
		}, imagetest.Symlink("link", host))
		c, err := p.tryCreate(image)
		if err != nil || shared.runtime.StartContainer(context.Background(), c.id) != nil {
			continue
		}
		same(t, name+": the node's file", c.sh("find / -xdev -name secret 2>/dev/null | wc -l; cat "+host+"/secret 2>/dev/null | wc -c"), "0\n0")
		same(t, name+": /proc", c.sh("awk '$5==\"/proc\"{print $(NF-2)}' /proc/self/mountinfo"), "proc")
	}
	for _, dst := range []string{"/proc/self/attr", "/proc/1", "/proc/sys/kernel", "/x/../proc/self"} {
		_, err := p.tryCreate(func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: "/tmp", ContainerPath: dst}}
		})
		wantCode(t, "a mount on "+dst, err, invalidArgument)
	}
}

// A volume as /dev whose null and console are not what they should be: paths are masked with
// the one (CVE-2025-31133), a terminal is mounted on the other (CVE-2025-52565).
func TestHostileDevices(t *testing.T) {
	host := decoy(t)
	p := runPod(t, hostNetwork)
	volume := func(dir string) ctrOption {
		return func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/dev"}}
		}
	}
	for name, target := range map[string]string{"a setting": "/proc/sys/kernel/domainname", "a file": "/etc/passwd", "a file of the node": host + "/secret"} {
		dir := shortDir(t)
		if err := os.Symlink(target, filepath.Join(dir, "null")); err != nil {
			t.Fatal(err)
		}
		c, err := p.tryCreate(volume(dir), security(func(s securityContext) { s.MaskedPaths = []string{"/proc/kcore", "/etc/group"} }))
		if err != nil || shared.runtime.StartContainer(context.Background(), c.id) != nil {
			continue
		}
		same(t, name+" as /dev/null: a masked file", c.sh("wc -c < /etc/group; head -c 1 /proc/kcore 2>/dev/null | wc -c"), "0\n0")
		same(t, name+" as /dev/null: a file that masks", c.sh("echo x 2>/dev/null > /proc/kcore; grep -c '^x$' /proc/sys/kernel/domainname || true"), "0")
	}
	regular := shortDir(t)
	write(t, filepath.Join(regular, "null"), "regular")
	c, err := p.tryCreate(volume(regular), security(func(s securityContext) { s.MaskedPaths = []string{"/etc/group"} }))
	if err == nil && shared.runtime.StartContainer(context.Background(), c.id) == nil {
		same(t, "a regular file as /dev/null: a masked file", c.sh("cat /etc/group"), "")
	}
	console := shortDir(t)
	for link, target := range map[string]string{"console": host + "/secret", "ptmx": host + "/secret", "pts": host} {
		if err := os.Symlink(target, filepath.Join(console, link)); err != nil {
			t.Fatal(err)
		}
	}
	c, err = p.tryCreate(volume(console), func(c *runtimeapi.ContainerConfig) { c.Tty = true })
	if err == nil && shared.runtime.StartContainer(context.Background(), c.id) == nil {
		same(t, "the node's file under a terminal", c.sh("cat "+host+"/secret 2>/dev/null | wc -c"), "0")
	}
}

// While containers are made, the place of their mount in a shared volume is swapped with a
// link (CVE-2021-30465, CVE-2024-45310): neither a mount nor a file comes to be outside.
func TestMountTargetsThatAreSwapped(t *testing.T) {
	host := decoy(t)
	volume := shortDir(t)
	p := runPod(t, hostNetwork)
	share := func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: volume, ContainerPath: "/share"})
	}
	// Two links besides: a place of the node, and the container's own root.
	swapper := p.run(share, shell(`cd /share; ln -s `+host+` out; ln -s / root; mkdir dir
		while true; do mv dir d; mv out dir; mv dir out; mv root dir; mv dir root; mv d dir; done`))
	eventually(t, "the swapper runs", func() bool { _, err := os.Lstat(filepath.Join(volume, "root")); return err == nil })
	source := write(t, filepath.Join(shortDir(t), "mounted"), "mounted")
	started := 0
	for i := range 25 {
		c, err := p.tryCreate(share, func(c *runtimeapi.ContainerConfig) {
			c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: source, ContainerPath: fmt.Sprintf("/share/dir/new%d/file", i)})
		})
		if err != nil {
			t.Fatal(err)
		}
		if shared.runtime.StartContainer(context.Background(), c.id) == nil {
			started++
			same(t, "the node's file", c.sh("cat "+host+"/secret 2>/dev/null | wc -c"), "0")
		}
		if err := shared.runtime.RemoveContainer(context.Background(), c.id); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d of 25 containers could be started", started)
	swapper.stop(0)
	for _, dir := range []string{"/new0", "/new1", host + "/new0"} {
		if _, err := os.Lstat(dir); err == nil {
			t.Errorf("%s was made on the node", dir)
		}
	}
}

// Users of the node reach neither root file systems nor layers, in which there may be
// set-user-ID programs (CVE-2021-41103, CVE-2024-25621).
func TestUsersOfTheNodeAreKeptOut(t *testing.T) {
	p := runPod(t, userNamespace)
	mapped := p.run()
	plain := shared.runPod(t, hostNetwork).run()
	layers := glob(t, filepath.Join(shared.Root, "layers", "*"))
	if len(layers) == 0 {
		t.Fatal("there are no layers")
	}
	for what, path := range map[string]string{
		"a root file system":                     filepath.Join(shared.State, "containers", plain.id, "rootfs"),
		"a root file system of a user namespace": filepath.Join(shared.State, "containers", mapped.id, "rootfs"),
		"the pods' files":                        filepath.Join(shared.State, "sandboxes"),
		"the monitor":                            filepath.Join(shared.State, "monitor"),
		"the containers":                         filepath.Join(shared.State, "containers"),
		"the layers":                             filepath.Join(shared.Root, "layers"),
		"the writable layers":                    filepath.Join(shared.Root, "rootfs"),
	} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, uid := range []uint32{65534, usernsUID + 1} {
			cmd := exec.Command("ls", path)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "ermission denied") {
				t.Errorf("user %d can look at %s: %s%v", uid, what, out, err)
			}
		}
	}
}

// Neither program listens on a socket without a file, which pods on the node's network
// would reach (CVE-2020-15257).
func TestNoAbstractSockets(t *testing.T) {
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	inodes := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") {
			inodes["socket:["+f[6]+"]"] = f[7]
		}
	}
	for _, pid := range []int{shared.PID(), shared.monitor(t)} {
		for _, fd := range glob(t, fmt.Sprintf("/proc/%d/fd/*", pid)) {
			if link, err := os.Readlink(fd); err == nil && inodes[link] != "" {
				t.Errorf("process %d has the abstract socket %s", pid, inodes[link])
			}
		}
	}
}

// The cgroup file system shows limits and does not take them (CVE-2023-25809).
func TestCgroupsAreReadOnly(t *testing.T) {
	for _, options := range [][]podOption{{hostNetwork}, {userNamespace}, {userNamespace, hostNetwork}} {
		c := runPod(t, options...).run()
		same(t, "writable cgroups", c.sh("find /sys/fs/cgroup -name cgroup.procs | while read f; do echo 0 2>/dev/null > $f && echo $f; done; true"), "")
	}
}

// Variables of one container are not seen in another of the same image (CVE-2021-21334);
// nothing of the daemon's own gets into one.
func TestEnvironmentOfTheRuntimeStaysOut(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	for _, name := range []string{"_LIBCONTAINER", "NOTIFY_SOCKET", "GOMAXPROCS", "LISTEN_FDS"} {
		if env := c.sh("tr '\\0' '\\n' < /proc/1/environ; env"); strings.Contains(env, name) {
			t.Errorf("the environment has %s:\n%s", name, env)
		}
	}
}

// A sandbox's profile has to be there, although the pod's init has a filter of its own.
func TestSeccompOfAPod(t *testing.T) {
	config := podConfig(t, hostNetwork)
	config.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{
		ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(t.TempDir(), "none.json"),
	}
	_, err := shared.runtime.RunPodSandbox(context.Background(), config, "")
	wantCode(t, "a profile that is not there", err, notFound)
	config.Linux.SecurityContext.Seccomp = nil
	//lint:ignore SA1019 clients still send it
	config.Linux.SecurityContext.SeccompProfilePath = "localhost/" + filepath.Join(t.TempDir(), "none.json")
	_, err = shared.runtime.RunPodSandbox(context.Background(), config, "")
	wantCode(t, "one by older means", err, notFound)
	profile := write(t, filepath.Join(t.TempDir(), "profile.json"), `{"defaultAction": "SCMP_ACT_ALLOW"}`)
	p := runPod(t, hostNetwork, pids(runtimeapi.NamespaceMode_POD), func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: profile}
	})
	c := p.run(security(func(s securityContext) { s.Seccomp = nil }))
	same(t, "the mode of the pod's init", c.procStatus("1", "Seccomp"), "2")
	same(t, "that of a container without profile", c.procStatus("self", "Seccomp"), "0")
}
