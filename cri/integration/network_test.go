package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addresses are the pod's, the first IPv4, the second IPv6.
func (p *pod) addresses() (v4, v6 netip.Addr) {
	p.t.Helper()
	network := p.status().Network
	if network == nil || len(network.AdditionalIps) != 1 {
		p.t.Fatalf("the pod's network is %v", network)
	}
	v4, err := netip.ParseAddr(network.Ip)
	if err != nil || !v4.Is4() {
		p.t.Fatalf("the pod's first address is %q", network.Ip)
	}
	v6, err = netip.ParseAddr(network.AdditionalIps[0].Ip)
	if err != nil || !v6.Is6() {
		p.t.Fatalf("the pod's second address is %q", network.AdditionalIps[0].Ip)
	}
	return v4, v6
}

// server answers every connection to a port with a word.
func server(port int, word string) ctrOption {
	return command("nc", "-ll", "-p", fmt.Sprint(port), "-e", "echo", word)
}

// ask reads what a server says, as soon as it serves.
func ask(t testing.TB, network, address string) string {
	t.Helper()
	var said string
	eventually(t, "an answer from "+address, func() bool {
		conn, err := net.DialTimeout(network, address, time.Second)
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		b, err := io.ReadAll(conn)
		said = strings.TrimSpace(string(b))
		return err == nil && said != ""
	})
	return said
}

func TestPodNetwork(t *testing.T) {
	p := runPod(t)
	v4, v6 := p.addresses()
	c := p.run(server(80, "hello"))
	links := c.sh("ip -o addr show dev eth0")
	for _, want := range []string{v4.String() + "/", v6.String() + "/"} {
		if !strings.Contains(links, "inet "+want) && !strings.Contains(links, "inet6 "+want) {
			t.Errorf("eth0 has no %s:\n%s", want, links)
		}
	}
	same(t, "lo", c.sh("ip -o addr show dev lo | grep -c 127.0.0.1"), "1")
	same(t, "the default route", c.sh("ip route | grep -c ^default"), "1")
	same(t, "over IPv4", ask(t, "tcp", netip.AddrPortFrom(v4, 80).String()), "hello")
	same(t, "over IPv6", ask(t, "tcp", netip.AddrPortFrom(v6, 80).String()), "hello")

	// Another pod reaches it too.
	other := shared.runPod(t)
	client := other.run()
	same(t, "from another pod", client.sh(fmt.Sprintf("nc -w 5 %s 80 </dev/null", v4)), "hello")
	same(t, "from another pod over IPv6", client.sh(fmt.Sprintf("nc -w 5 %s 80 </dev/null", v6)), "hello")
	otherV4, _ := other.addresses()
	if otherV4 == v4 {
		t.Errorf("two pods have the address %s", v4)
	}
}

func TestHostPorts(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	p := runPod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: int32(port)}, {ContainerPort: 81}}
	})
	p.run(server(80, "through the node"))
	same(t, "the node's port", ask(t, "tcp", fmt.Sprintf("127.0.0.1:%d", port)), "through the node")
	p.remove()
	if conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second); err == nil {
		conn.Close()
		t.Error("the port is still open after the pod")
	}
}

// A port of each protocol, at one address of the node and not at others. No kernel of the
// machines that build this has SCTP itself: there the rule is what can be seen.
func TestHostPortsOfProtocols(t *testing.T) {
	port := freeUDPPort(t)
	p := runPod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{
			{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 5353, HostPort: int32(port), HostIp: "127.0.0.1"},
			{Protocol: runtimeapi.Protocol_SCTP, ContainerPort: 9899, HostPort: int32(port), HostIp: "127.0.0.1"},
		}
	})
	c := p.run()
	conn := listenIn(t, c.hostPid(), "udp", "0.0.0.0:5353")
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(append([]byte("re: "), buf[:n]...), from)
		}
	}()
	client, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	eventually(t, "an answer over UDP", func() bool {
		_ = client.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprint(client, "hello")
		buf := make([]byte, 100)
		n, err := client.Read(buf)
		return err == nil && string(buf[:n]) == "re: hello"
	})
	if rules := strings.Join(shared.rules(t), "\n"); !strings.Contains(rules, "sctp") {
		t.Errorf("there is no rule for SCTP:\n%s", rules)
	}
	// The same port at another address is somebody else's.
	other, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.2:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	stranger, err := net.Dial("udp", other.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	fmt.Fprint(stranger, "to the node")
	_ = other.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 100)
	n, _, err := other.ReadFrom(buf)
	same(t, "at another address", fmt.Sprintf("%s %v", buf[:n], err), "to the node <nil>")
}

func freeUDPPort(t testing.TB) int {
	t.Helper()
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	return free.LocalAddr().(*net.UDPAddr).Port
}

// listenIn listens in the network namespace of a process.
func listenIn(t testing.TB, pid, network, address string) net.PacketConn {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var fds []int
	for _, path := range []string{"/proc/thread-self/ns/net", "/proc/" + pid + "/ns/net"} {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	if err := unix.Setns(fds[1], unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket(network, address)
	if back := unix.Setns(fds[0], unix.CLONE_NEWNET); back != nil {
		panic(back) // the thread is of no use to any test
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestHostNetwork(t *testing.T) {
	p := runPod(t, hostNetwork)
	same(t, "network in the status", p.status().Network.GetIp(), "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "from the node")
			conn.Close()
		}
	}()
	c := p.run()
	same(t, "the node's loopback", c.sh(fmt.Sprintf("nc -w 5 127.0.0.1 %d </dev/null", l.Addr().(*net.TCPAddr).Port)), "from the node")
}

// condition is a condition of the runtime's status.
func (d *daemon) condition(t testing.TB, kind string) *runtimeapi.RuntimeCondition {
	t.Helper()
	r, err := d.runtime.Status(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	t.Fatalf("the status has no %s: %v", kind, r)
	return nil
}

// A change of the configuration directory needs no signal and no restart; what
// is wrong is said.
func TestNetworkConfigurationIsFollowed(t *testing.T) {
	d := ownDaemon(t, "")
	file := filepath.Join(d.NetworkDir(), "10-test.conflist")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "runtime ready", d.condition(t, runtimeapi.RuntimeReady).Status, true)
	same(t, "network ready", d.condition(t, runtimeapi.NetworkReady).Status, true)

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the network is not ready without a configuration", func() bool { return !d.condition(t, runtimeapi.NetworkReady).Status })
	c := d.condition(t, runtimeapi.NetworkReady)
	if c.Reason == "" || !strings.Contains(c.Message, d.NetworkDir()) {
		t.Errorf("reason %q, message %q", c.Reason, c.Message)
	}
	_, err = d.runtime.RunPodSandbox(t.Context(), podConfig(t), "")
	if err == nil || !strings.Contains(err.Error(), d.NetworkDir()) {
		t.Errorf("a pod without a network: %v", err)
	}
	host := d.runPod(t, hostNetwork)
	same(t, "a pod with the node's network", host.run().sh("echo works"), "works")

	write(t, file, string(good))
	eventually(t, "the network is ready", func() bool { return d.condition(t, runtimeapi.NetworkReady).Status })
	d.runPod(t).addresses()
}

// A plugin that is missing, fails or hangs makes an error that names it, within
// the timeout, and leaves nothing.
func TestBadPlugins(t *testing.T) {
	for name, c := range map[string]struct {
		script, want string
		timeout      time.Duration
	}{
		"missing": {"", "bad-plugin", patience},
		"failing": {"#!/bin/sh\ncat >/dev/null\necho '{\"cniVersion\":\"1.0.0\",\"code\":77,\"msg\":\"no address left\"}'\nexit 1\n", "no address left", patience},
		// The plugins before it have to be through by then.
		"hanging": {"#!/bin/sh\nexec sleep 600\n", "bad-plugin", 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			plugins := t.TempDir()
			for _, real := range glob(t, filepath.Join(bin, "cni", "*")) {
				if err := os.Symlink(real, filepath.Join(plugins, filepath.Base(real))); err != nil {
					t.Fatal(err)
				}
			}
			script := filepath.Join(plugins, "bad-plugin")
			if c.script != "" {
				if err := os.WriteFile(script, []byte(c.script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			dir := shortDir(t)
			d, err := layOut(dir, "")
			if err != nil {
				t.Fatal(err)
			}
			config := fmt.Sprintf("apiVersion: berth.dev/v1alpha1\nkind: BerthConfiguration\nnetwork:\n  confDirs: [%s]\n  binDirs: [%s]\n  timeout: %s\n", d.NetworkDir(), plugins, c.timeout)
			write(t, filepath.Join(dir, "berthd.yaml"), config)
			list, err := os.ReadFile(filepath.Join(d.NetworkDir(), "10-test.conflist"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(d.NetworkDir(), "10-test.conflist"),
				strings.Replace(string(list), `{"type": "portmap"`, `{"type": "bad-plugin"}, {"type": "portmap"`, 1))
			if err := d.start(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := d.close(); err != nil {
					t.Error(err)
				}
			})
			_, err = d.runtime.RunPodSandbox(t.Context(), podConfig(t), "")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one that has %q", err, c.want)
			}
			if pods, err := d.runtime.ListPodSandbox(t.Context(), nil); err != nil || len(pods) != 0 {
				t.Errorf("pods: %v, %v", pods, err)
			}
			// What DEL could not give back is given back once the plugin is well.
			if err := os.WriteFile(script+".new", []byte("#!/bin/sh\n[ $CNI_COMMAND = ADD ] && { sed 's/.*\"prevResult\"://; s/,\"type\".*//' ; exit 0; }\ncat >/dev/null\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(script+".new", script); err != nil {
				t.Fatal(err)
			}
			eventually(t, "no address, no interface and no rule is left", func() bool {
				return len(addresses(t, d.IPAMDir()))+len(d.rules(t)) == 0 && len(glob(t, filepath.Join("/sys/class/net", d.Bridge, "brif", "*"))) == 0
			})
		})
	}
}

// A pod can be removed while its network's plugins are gone; what they owe is
// given back later.
func TestRemovalWithoutPlugins(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t)
	p.run()
	file := filepath.Join(d.NetworkDir(), "10-test.conflist")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.remove()
	write(t, file, string(good))
	eventually(t, "no address and no rule is left", func() bool { return len(addresses(t, d.IPAMDir()))+len(d.rules(t)) == 0 })
}
