package integration

import (
	"os"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type securityContext = *runtimeapi.LinuxContainerSecurityContext

// procStatus is a field of /proc/<pid>/status as the container sees it.
func (c *ctr) procStatus(pid, field string) string {
	c.t.Helper()
	for line := range strings.Lines(c.exec("cat", "/proc/"+pid+"/status")) {
		if name, value, ok := strings.Cut(line, ":"); ok && name == field {
			return strings.TrimSpace(value)
		}
	}
	c.t.Fatalf("no %s in the status of process %s", field, pid)
	return ""
}

// capabilities is a set of capabilities as the kernel prints it.
func capabilities(t testing.TB, hex string) (set []int) {
	t.Helper()
	bits, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 {
		if bits&(1<<i) != 0 {
			set = append(set, i)
		}
	}
	return set
}

const (
	capChown         = 1 << 0
	capNetBind       = 1 << 10
	capNetAdmin      = 1 << 12
	capNetRaw        = 1 << 13
	capSysAdmin      = 1 << 21
	defaultCaps      = 0xa80425fb
	noCaps           = 0
	unprivilegedUser = 1000
)

func TestCapabilities(t *testing.T) {
	p := runPod(t, hostNetwork)
	caps := func(change func(*runtimeapi.Capability)) ctrOption {
		return security(func(s securityContext) {
			s.Capabilities = &runtimeapi.Capability{}
			change(s.Capabilities)
		})
	}
	for name, c := range map[string]struct {
		option ctrOption
		want   uint64
	}{
		"default":  {func(*runtimeapi.ContainerConfig) {}, defaultCaps},
		"one more": {caps(func(c *runtimeapi.Capability) { c.AddCapabilities = []string{"NET_ADMIN"} }), defaultCaps | capNetAdmin},
		"one less": {caps(func(c *runtimeapi.Capability) { c.DropCapabilities = []string{"CHOWN"} }), defaultCaps &^ capChown},
		"none":     {caps(func(c *runtimeapi.Capability) { c.DropCapabilities = []string{"ALL"} }), noCaps},
		"none but one": {caps(func(c *runtimeapi.Capability) {
			c.DropCapabilities, c.AddCapabilities = []string{"ALL"}, []string{"CAP_NET_RAW"}
		}), capNetRaw},
	} {
		ctr := p.run(c.option)
		for _, pid := range []string{"1", "self"} {
			for _, field := range []string{"CapEff", "CapPrm", "CapBnd"} {
				got, err := strconv.ParseUint(ctr.procStatus(pid, field), 16, 64)
				if err != nil || got != c.want {
					t.Errorf("%s: %s of %s is %v, want %v (%v)", name, field, pid,
						capabilities(t, strconv.FormatUint(got, 16)), capabilities(t, strconv.FormatUint(c.want, 16)), err)
				}
			}
			same(t, name+": inheritable", ctr.procStatus(pid, "CapInh"), strings.Repeat("0", 16))
		}
	}
	// All of the daemon's own, which may be fewer than there are.
	all := p.run(caps(func(c *runtimeapi.Capability) { c.AddCapabilities = []string{"ALL"} }))
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(own), "CapBnd:\t")
	same(t, "ALL", all.procStatus("1", "CapEff"), rest[:16])
}

func TestAmbientCapabilities(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(security(func(s securityContext) {
		s.RunAsUser = &runtimeapi.Int64Value{Value: unprivilegedUser}
		s.Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
	}))
	got, err := strconv.ParseUint(c.procStatus("1", "CapAmb"), 16, 64)
	if err != nil || got != capNetBind {
		t.Errorf("ambient capabilities are %x, %v", got, err)
	}
	got, err = strconv.ParseUint(c.procStatus("1", "CapEff"), 16, 64)
	if err != nil || got != capNetBind {
		t.Errorf("effective capabilities of a user are %x, %v", got, err)
	}
}

// Capabilities of users other than root: none but ambient ones take effect, also in a user
// namespace and of a privileged container.
func TestCapabilitiesOfUsers(t *testing.T) {
	user := func(s securityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: unprivilegedUser} }
	for name, options := range map[string][]podOption{"plain": {hostNetwork, privilegedPod}, "user namespace": {userNamespace, privilegedPod}} {
		p := runPod(t, options...)
		added := p.run(security(func(s securityContext) {
			user(s)
			s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}
		}))
		ambient := p.run(security(func(s securityContext) {
			user(s)
			s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_RAW", "NET_BIND_SERVICE"}}
		}))
		privileged := p.run(security(func(s securityContext) {
			user(s)
			s.Privileged = true
		}))
		const both = "0000000000002400"
		none := strings.Repeat("0", 16)
		for _, pid := range []string{"1", "self"} {
			same(t, name+": added", added.procStatus(pid, "CapEff")+added.procStatus(pid, "CapPrm")+added.procStatus(pid, "CapInh"), none+none+none)
			same(t, name+": ambient", ambient.procStatus(pid, "CapEff"), both)
			same(t, name+": the most of ambient ones", ambient.procStatus(pid, "CapBnd"), both)
			same(t, name+": privileged", privileged.procStatus(pid, "CapEff"), none)
		}
		if added.procStatus("1", "CapBnd") == none || privileged.procStatus("1", "CapBnd") != added.procStatus("1", "CapBnd") {
			t.Errorf("%s: the bounding sets are %s and %s", name, added.procStatus("1", "CapBnd"), privileged.procStatus("1", "CapBnd"))
		}
	}
}

func TestSeccomp(t *testing.T) {
	p := runPod(t, hostNetwork)
	profile := func(kind runtimeapi.SecurityProfile_ProfileType, ref string) ctrOption {
		return security(func(s securityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
		})
	}
	// unshare needs no capability for a user namespace; the default profile
	// refuses it all the same.
	probe := "unshare -U true 2>/dev/null && echo allowed || echo refused"
	filtered := p.run(profile(runtimeapi.SecurityProfile_RuntimeDefault, ""))
	same(t, "the default profile's mode", filtered.procStatus("1", "Seccomp"), "2")
	same(t, "the default profile in an exec", filtered.procStatus("self", "Seccomp"), "2")
	same(t, "the default profile", filtered.sh(probe), "refused")

	free := p.run(profile(runtimeapi.SecurityProfile_Unconfined, ""))
	same(t, "the mode without a profile", free.procStatus("1", "Seccomp"), "0")

	unset := p.run(security(func(s securityContext) { s.Seccomp = nil }))
	same(t, "the mode without a word", unset.procStatus("1", "Seccomp"), "0")

	local := write(t, t.TempDir()+"/profile.json", `{"defaultAction": "SCMP_ACT_ALLOW",
		"syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`)
	own := p.run(profile(runtimeapi.SecurityProfile_Localhost, local))
	older := p.run(security(func(s securityContext) {
		s.Seccomp = nil
		//lint:ignore SA1019 clients still send it
		s.SeccompProfilePath = "localhost/" + local
	}))
	same(t, "a profile of the node, by older means", older.sh("mkdir /tmp/x 2>/dev/null && echo allowed || echo refused"), "refused")
	same(t, "a profile of the node", own.sh("mkdir /tmp/x 2>/dev/null && echo allowed || echo refused; touch /tmp/y && echo allowed"), "refused\nallowed")
}

func TestMaskedAndReadOnlyPaths(t *testing.T) {
	p := runPod(t, hostNetwork)
	checkMaskedPaths(t, p)
	// A request without a security context gets the defaults.
	d := p.run(func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext = nil })
	same(t, "kcore by default", d.sh("head -c 1 /proc/kcore 2>/dev/null | wc -c"), "0")
	same(t, "sysctls by default", d.sh("v=$(cat /proc/sys/kernel/domainname); echo $v 2>/dev/null > /proc/sys/kernel/domainname || echo refused"), "refused")
	same(t, "powercap by default", d.sh("ls -A /sys/devices/virtual/powercap 2>/dev/null | wc -l"), "0")
}

// checkMaskedPaths checks those that a container of the pod asks for.
func checkMaskedPaths(t *testing.T, p *pod) {
	t.Helper()
	c := p.run(security(func(s securityContext) {
		s.MaskedPaths = []string{"/proc/kcore", "/proc/fs", "/etc/passwd"}
		s.ReadonlyPaths = []string{"/proc/sys", "/etc/group"}
	}))
	same(t, "a masked file", c.sh("cat /etc/passwd | wc -c"), "0")
	same(t, "a masked directory", c.sh("ls -A /proc/fs | wc -l"), "0")
	same(t, "a read-only path", c.sh("echo 1 2>/dev/null > /proc/sys/kernel/domainname || echo refused"), "refused")
	same(t, "a read-only file", c.sh("echo x 2>/dev/null >> /etc/group || echo refused"), "refused")
}

func TestNoNewPrivileges(t *testing.T) {
	p := runPod(t, hostNetwork)
	for _, want := range []bool{false, true} {
		c := p.run(security(func(s securityContext) { s.NoNewPrivs = want }))
		number := map[bool]string{false: "0", true: "1"}[want]
		same(t, "no_new_privs of the container", c.procStatus("1", "NoNewPrivs"), number)
		same(t, "no_new_privs of an exec", c.procStatus("self", "NoNewPrivs"), number)
	}
}

func TestReadOnlyRoot(t *testing.T) {
	p := runPod(t, hostNetwork)
	probe := "touch /x 2>/dev/null && echo written || echo refused; touch /dev/shm/x && echo written"
	same(t, "a read-only root", p.run(security(func(s securityContext) { s.ReadonlyRootfs = true })).sh(probe), "refused\nwritten")
	same(t, "a root", p.run().sh(probe), "written\nwritten")
}

func TestPrivileged(t *testing.T) {
	p := runPod(t, hostNetwork, privilegedPod)
	privileged := security(func(s securityContext) { s.Privileged = true })
	c := p.run(privileged)
	same(t, "seccomp", c.procStatus("1", "Seccomp"), "0")
	same(t, "/proc/sys", c.sh("grep -q ' /proc/sys ' /proc/self/mountinfo && echo mounted || echo open"), "open")
	same(t, "/sys", c.sh("awk '$5==\"/sys\"{print substr($6,1,2)}' /proc/self/mountinfo"), "rw")
	same(t, "a mount", c.sh("mount -t tmpfs x /tmp && echo mounted"), "mounted")
	same(t, "the host's devices", c.sh("test -c /dev/kmsg -o -c /dev/mem -o -c /dev/loop-control -o -b /dev/loop0 -o -b /dev/vda -o -c /dev/fuse -o -c /dev/net/tun && echo there"), "there")
	// A sandbox that was not announced as one for such containers refuses them.
	q := shared.runPod(t, hostNetwork)
	_, err := q.tryCreate(privileged)
	wantCode(t, "a privileged container in another pod", err, invalidArgument)
	// And one without has little of it.
	plain := p.run()
	same(t, "a mount in a plain container", plain.sh("mount -t tmpfs x /tmp 2>/dev/null && echo mounted || echo refused"), "refused")
	if got, err := strconv.ParseUint(plain.procStatus("1", "CapEff"), 16, 64); err != nil || got&capSysAdmin != 0 {
		t.Errorf("capabilities of a plain container: %x, %v", got, err)
	}
}

func TestDevices(t *testing.T) {
	p := runPod(t, hostNetwork)
	device := func(permissions string) ctrOption {
		return func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/mine", Permissions: permissions}}
		}
	}
	c := p.run(device("rwm"))
	same(t, "a device", c.sh("head -c 4 /dev/mine | wc -c"), "4")
	// Nothing else can be opened, even after it was made.
	same(t, "a device of the host", c.sh("mknod /tmp/mem c 1 1 2>/dev/null; mknod /tmp/port c 1 4 2>/dev/null; head -c 1 /tmp/mem 2>&1 >/dev/null | grep -c -i -e permitted -e 'No such'"), "1")
	same(t, "the usual devices", c.sh("for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; echo x > /dev/null; head -c 3 /dev/urandom | wc -c"), "3")
}

// What the cgroup lets a container do with a device is what the request says.
func TestDevicePermissions(t *testing.T) {
	// None that every container has.
	const host = "/dev/fuse"
	p := runPod(t, hostNetwork)
	probe := "(exec 3< /dev/mine) 2>/dev/null && echo read; (exec 3>> /dev/mine) 2>/dev/null && echo written; true"
	device := func(permissions string) ctrOption {
		return func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: host, ContainerPath: "/dev/mine", Permissions: permissions}}
		}
	}
	for permissions, want := range map[string]string{"rwm": "read\nwritten", "r": "read", "w": "written", "m": ""} {
		same(t, permissions, p.run(device(permissions)).sh(probe), want)
	}
	privileged := shared.runPod(t, hostNetwork, privilegedPod)
	same(t, "privileged", privileged.run(device("r"), security(func(s securityContext) { s.Privileged = true })).sh(probe), "read\nwritten")
	_, err := p.tryCreate(func(c *runtimeapi.ContainerConfig) {
		c.Devices = []*runtimeapi.Device{{HostPath: "/dev/no-such-device", ContainerPath: "/dev/mine", Permissions: "r"}}
	})
	wantCode(t, "a missing device", err, notFound)
	_, err = p.tryCreate(func(c *runtimeapi.ContainerConfig) {
		c.Devices = []*runtimeapi.Device{{HostPath: "/etc/passwd", ContainerPath: "/dev/mine", Permissions: "r"}}
	})
	wantCode(t, "a file", err, invalidArgument)
}

// A container gets no file descriptors but its three (CVE-2024-21626).
func TestNoFileDescriptorsLeakIntoContainers(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(shell("ls -l /proc/self/fd; echo done; sleep 60"))
	eventually(t, "the container has listed them", func() bool { return strings.Contains(c.stdout(), "done") })
	for _, listing := range []string{c.stdout(), c.exec("ls", "-l", "/proc/self/fd")} {
		// The fourth is the directory that ls reads; it is closed when ls looks
		// where it leads.
		if strings.Count(listing, " 64 ") != 4 || strings.Count(listing, "->") != 3 {
			t.Errorf("the descriptors are:\n%s", listing)
		}
	}
}

// The runtime's own program cannot be reached from a container (CVE-2019-5736).
func TestTheMonitorsProgramIsOutOfReach(t *testing.T) {
	p := runPod(t, hostNetwork)
	before, err := os.ReadFile(bin + "/berth-monitor")
	if err != nil {
		t.Fatal(err)
	}
	c := p.run()
	stdout, stderr, err := shared.runtime.ExecSync(t.Context(), c.id, []string{"/proc/self/exe", "--help"}, 0)
	if err == nil && !strings.Contains(string(stdout)+string(stderr), "BusyBox") {
		t.Errorf("/proc/self/exe ran: %s%s", stdout, stderr)
	}
	c.sh("for f in /proc/[0-9]*/exe; do echo x 2>/dev/null >> $f; done; true")
	after, err := os.ReadFile(bin + "/berth-monitor")
	if err != nil || string(before) != string(after) {
		t.Error("the program has changed")
	}
}
