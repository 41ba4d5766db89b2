package integration

import (
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// namespace is the identity of a namespace of this test's process.
func namespace(t *testing.T, kind string) string {
	t.Helper()
	link, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func (c *ctr) namespace(kind string) string {
	c.t.Helper()
	return c.sh("readlink /proc/self/ns/" + kind)
}

// What the containers of a pod share and what they do not.
func TestNamespacesOfAPod(t *testing.T) {
	p := runPod(t)
	a, b := p.run(), p.run()
	for _, kind := range []string{"net", "ipc", "uts"} {
		same(t, kind, a.namespace(kind), b.namespace(kind))
		if a.namespace(kind) == namespace(t, kind) {
			t.Errorf("%s is the node's", kind)
		}
	}
	for _, kind := range []string{"mnt", "pid"} {
		if a.namespace(kind) == b.namespace(kind) {
			t.Errorf("two containers share %s", kind)
		}
	}
	same(t, "the first process", a.sh("cat /proc/1/comm"), "sleep")
	same(t, "user", a.namespace("user"), namespace(t, "user"))
}

func TestSharedPIDs(t *testing.T) {
	p := runPod(t, pids(runtimeapi.NamespaceMode_POD))
	a, b := p.run(command("sleep", "1234")), p.run(command("sleep", "5678"))
	same(t, "PID namespace", a.namespace("pid"), b.namespace("pid"))
	if out := a.sh("ps -o args"); !strings.Contains(out, "sleep 1234") || !strings.Contains(out, "sleep 5678") {
		t.Errorf("a container sees:\n%s", out)
	}
	// The pod's init reaps what is orphaned.
	a.sh("(sleep 0.1 & exec true) & wait")
	eventually(t, "no zombie", func() bool { return a.sh("ps -o stat | grep -c Z || true") == "0" })
	b.stop(0)
	same(t, "the other goes on", a.sh("echo yes"), "yes")
	same(t, "state of the pod", p.status().State, runtimeapi.PodSandboxState_SANDBOX_READY)
}

func TestTargetedPIDs(t *testing.T) {
	p := runPod(t)
	target := p.run(command("sleep", "1234"))
	debugger := p.run(security(func(s securityContext) {
		s.NamespaceOptions.Pid, s.NamespaceOptions.TargetId = runtimeapi.NamespaceMode_TARGET, target.id
	}))
	same(t, "PID namespace", debugger.namespace("pid"), target.namespace("pid"))
	if out := debugger.sh("ps -o args"); !strings.Contains(out, "sleep 1234") {
		t.Errorf("the debugger sees:\n%s", out)
	}
}

func TestNamespacesOfTheNode(t *testing.T) {
	p := runPod(t, hostNetwork, pids(runtimeapi.NamespaceMode_NODE), func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
	})
	c := p.run()
	for _, kind := range []string{"net", "pid", "ipc"} {
		same(t, kind, c.namespace(kind), namespace(t, kind))
	}
	same(t, "an interface of the node", c.sh("test -d /sys/class/net/"+shared.Bridge+" || ls /sys/class/net | grep -c lo"), c.sh("test -d /sys/class/net/"+shared.Bridge+" || echo 1"))
}

func TestHostname(t *testing.T) {
	p := runPod(t)
	c := p.run()
	same(t, "hostname", c.sh("hostname"), p.config.Hostname)
	same(t, "/etc/hostname", c.sh("cat /etc/hostname"), p.config.Hostname)
	same(t, "$HOSTNAME", c.sh("echo $HOSTNAME"), p.config.Hostname)
	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host := shared.runPod(t, hostNetwork, func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "" })
	same(t, "hostname with the node's network", host.run().sh("hostname"), node)
	same(t, "the node's own", func() string { n, _ := os.Hostname(); return n }(), node)
}

func TestDNS(t *testing.T) {
	p := runPod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.DnsConfig = &runtimeapi.DNSConfig{
			Servers: []string{"10.1.2.3", "fd00::53"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5", "edns0"},
		}
	})
	c := p.run()
	same(t, "resolv.conf", c.sh("cat /etc/resolv.conf"),
		"search a.example b.example\nnameserver 10.1.2.3\nnameserver fd00::53\noptions ndots:5 edns0")
}

func TestSharedMemory(t *testing.T) {
	p := runPod(t, hostNetwork)
	a, b := p.run(), p.run()
	a.sh("echo -n between containers > /dev/shm/x")
	same(t, "what the other container sees", b.sh("cat /dev/shm/x"), "between containers")
	same(t, "the file system", a.sh("awk '$5==\"/dev/shm\"{for(i=7;i<NF;i++)if($i==\"-\")print $(i+1)}' /proc/self/mountinfo"), "tmpfs")
	if size := atoi(t, a.sh("df -k /dev/shm | tail -1 | awk '{print $2}'")); size != 64<<10 {
		t.Errorf("/dev/shm has %d KiB", size)
	}
	other := shared.runPod(t, hostNetwork)
	same(t, "what another pod sees", other.run().sh("cat /dev/shm/x 2>/dev/null || echo nothing"), "nothing")
}

func TestSysctls(t *testing.T) {
	p := runPod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{
			"net.ipv4.ip_local_port_range": "20000 30000", "kernel.shm_rmid_forced": "1", "net/ipv4/ip_unprivileged_port_start": "81",
		}
	})
	c := p.run()
	same(t, "a port range", strings.Join(strings.Fields(c.sh("cat /proc/sys/net/ipv4/ip_local_port_range")), " "), "20000 30000")
	same(t, "shm_rmid_forced", c.sh("cat /proc/sys/kernel/shm_rmid_forced"), "1")
	same(t, "unprivileged ports", c.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "81")
}
