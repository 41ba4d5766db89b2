package cni_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berth-cri/berth/cni"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
)

var referencePlugins = []string{"main/bridge", "ipam/host-local", "meta/portmap", "meta/bandwidth"}

// buildPlugins builds the reference plugins as the Makefile does.
var buildPlugins = sync.OnceValues(func() (dir string, err error) {
	dir, err = os.MkdirTemp("", "berth-cni-plugins-")
	if err != nil {
		return "", err
	}
	cni.AtExit(func() { os.RemoveAll(dir) })
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/"}
	for _, plugin := range referencePlugins {
		args = append(args, "github.com/containernetworking/plugins/plugins/"+plugin)
	}
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build plugins: %w: %s", err, output)
	}
	return dir, nil
})

// node is a network namespace that plays the node's: bridges, rules and forwarding that plugins
// make stay in it. A second namespace, outside, is joined to it by a cable.
type node struct {
	t                        testing.TB
	netns, outside           string
	dir, data                string
	networks                 *cni.Networks
	address, outsideAddress  netip.Addr
	address6, outsideAddres6 netip.Addr
}

func newNode(t testing.TB, change func(bridge, portmap map[string]any)) *node {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	bin, err := buildPlugins()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n := &node{t: t, dir: dir, data: filepath.Join(dir, "ipam")}
	n.netns = n.namespace("node")
	n.outside = n.namespace("outside")
	n.cable()
	conf := filepath.Join(dir, "net.d")
	n.writeConfig(conf, change)
	n.networks = cni.New(cni.Options{
		ConfDirs: []string{conf}, BinDirs: []string{bin}, StateDir: filepath.Join(dir, "state"),
		RegistryDir: filepath.Join(dir, "registry"), PeerCacheDir: filepath.Join(dir, "peers"),
	})
	t.Cleanup(func() {
		if err := cni.DropHolds(n.networks); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) namespace(name string) string {
	n.t.Helper()
	dir := filepath.Join(n.dir, name)
	pins, err := namespaces.Create(context.Background(), namespaces.Request{Dir: dir, Network: true})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := namespaces.Remove(context.Background(), dir); err != nil {
			n.t.Error(err)
		}
	})
	return pins[namespaces.Network]
}

// writeConfig writes the default network with its data where this test can look at it.
func (n *node) writeConfig(dir string, change func(bridge, portmap map[string]any)) {
	n.t.Helper()
	data, err := os.ReadFile("../manifests/cni/10-berth.conflist")
	if err != nil {
		n.t.Fatal(err)
	}
	var list struct {
		CNIVersion string           `json:"cniVersion"`
		Name       string           `json:"name"`
		Plugins    []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		n.t.Fatal(err)
	}
	list.Plugins[0]["ipam"].(map[string]any)["dataDir"] = n.data
	if change != nil {
		change(list.Plugins[0], list.Plugins[1])
	}
	if data, err = json.Marshal(list); err != nil {
		n.t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "10-berth.conflist"), data, 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// in runs fn in a namespace; plugins that it starts are in it too.
func (n *node) in(netns string, fn func() error) {
	n.t.Helper()
	if err := namespaces.EnterNetwork(netns, fn); err != nil {
		n.t.Fatal(err)
	}
}

// cable joins node and outside. Outside has no route to pods: it sees the node's address only.
func (n *node) cable() {
	n.t.Helper()
	n.address, n.outsideAddress = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	n.address6, n.outsideAddres6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	n.in(n.netns, func() error {
		out, err := os.Open(n.outside)
		if err != nil {
			return err
		}
		defer out.Close()
		err = netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "uplink", PeerNamespace: netlink.NsFd(int(out.Fd())),
		})
		if err != nil {
			return err
		}
		return upWith("uplink", "192.0.2.1/24", "2001:db8::1/64")
	})
	n.in(n.outside, func() error { return upWith("uplink", "192.0.2.2/24", "2001:db8::2/64") })
}

func upWith(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		addr.Flags = 2 // IFA_F_NODAD: usable at once
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

type pod struct {
	cni.Pod
	ips []netip.Addr
}

func (n *node) attach(id string, mappings ...cni.PortMapping) *pod {
	n.t.Helper()
	p := &pod{Pod: cni.Pod{ID: id, Name: id, Namespace: "default", UID: id, NetNS: n.namespace(id), PortMappings: mappings}}
	n.in(n.netns, func() error {
		attached, err := n.networks.Attach(context.Background(), p.Pod)
		if err == nil {
			p.ips = attached.IPs
		}
		return err
	})
	if len(p.ips) != 2 || !p.ips[0].Is4() || !p.ips[1].Is6() {
		n.t.Fatalf("addresses of %s: %v", id, p.ips)
	}
	return p
}

func (n *node) detach(p *pod) {
	n.t.Helper()
	n.in(n.netns, func() error { return n.networks.Detach(context.Background(), p.ID) })
}

// serve answers every connection to a port with the address it came from.
func (n *node) serve(netns string, port uint16) {
	n.t.Helper()
	n.in(netns, func() error {
		listener, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			return err
		}
		n.t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				from := netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr().Unmap()
				_, _ = io.WriteString(conn, from.String())
				conn.Close()
			}
		}()
		return nil
	})
}

// ask connects from one namespace and returns the address that the server saw.
func (n *node) ask(netns string, to netip.Addr, port uint16) string {
	n.t.Helper()
	conn, err := namespaces.Dial(n.t.Context(), netns, "tcp", netip.AddrPortFrom(to, port).String())
	if err != nil {
		n.t.Error(err)
		return ""
	}
	defer conn.Close()
	seen, err := io.ReadAll(conn)
	if err != nil {
		n.t.Error(err)
	}
	return string(seen)
}

func (n *node) want(what, got, want string) {
	n.t.Helper()
	if got != want {
		n.t.Errorf("%s: the server saw %q, want %q", what, got, want)
	}
}

// leftovers are what plugins keep outside of the pods: addresses, interfaces, rules.
func (n *node) leftovers(ids ...string) (left []string) {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.data, "berth", "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, file := range files {
		if name := filepath.Base(file); name != "lock" && !strings.HasPrefix(name, "last_reserved_ip") {
			left = append(left, "address "+name)
		}
	}
	n.in(n.netns, func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			if link.Type() == "veth" && link.Attrs().Name != "uplink" {
				left = append(left, "interface "+link.Attrs().Name)
			}
		}
		return err
	})
	var rules []byte
	n.in(n.netns, func() (err error) {
		rules, err = exec.Command("nft", "list", "ruleset").CombinedOutput()
		return err
	})
	for line := range strings.Lines(string(rules)) {
		for _, id := range ids {
			if strings.Contains(line, id) {
				left = append(left, "rule "+strings.TrimSpace(line))
			}
		}
	}
	return left
}

func TestReferencePlugins(t *testing.T) {
	for _, backend := range []string{"", "iptables", "nftables"} {
		t.Run("backend "+backend, func(t *testing.T) {
			n := newNode(t, func(bridge, portmap map[string]any) {
				if backend != "" {
					bridge["ipMasqBackend"], portmap["backend"] = backend, backend
				}
			})
			one := n.attach("pod-one", cni.PortMapping{HostPort: 18080, ContainerPort: 80})
			two := n.attach("pod-two")
			n.serve(one.NetNS, 80)
			n.serve(n.outside, 81)
			for i, family := range []string{"IPv4", "IPv6"} {
				n.want(family+" from pod to pod", n.ask(two.NetNS, one.ips[i], 80), two.ips[i].String())
				n.want(family+" to itself", n.ask(one.NetNS, one.ips[i], 80), one.ips[i].String())
			}
			n.want("IPv4 from pod to outside", n.ask(two.NetNS, n.outsideAddress, 81), n.address.String())
			n.want("IPv6 from pod to outside", n.ask(two.NetNS, n.outsideAddres6, 81), n.address6.String())
			n.want("host port over IPv4", n.ask(n.outside, n.address, 18080), n.outsideAddress.String())
			n.want("host port over IPv6", n.ask(n.outside, n.address6, 18080), n.outsideAddres6.String())
			if n.ask(n.netns, netip.MustParseAddr("127.0.0.1"), 18080) == "" {
				t.Error("host port over the node's loopback: no answer")
			}
			if left := n.leftovers("pod-one"); len(left) < 6 {
				t.Errorf("this test looks in the wrong place for leftovers: %q", left)
			}
			n.detach(one)
			n.detach(two)
			if left := n.leftovers("pod-one", "pod-two"); left != nil {
				t.Errorf("left: %q", left)
			}
			if pods, err := n.networks.Pods(); err != nil || len(pods) != 0 {
				t.Errorf("debts of %v, %v", pods, err)
			}
		})
	}
}

// TestPodGoneBeforeItsDEL: the namespace, and with it the interface, is gone. The DEL then frees
// the address; the rules, which the bridge plugin finds only through the interface, go with GC.
func TestPodGoneBeforeItsDEL(t *testing.T) {
	n := newNode(t, nil)
	lost, kept := n.attach("pod-lost"), n.attach("pod-kept")
	if err := namespaces.Remove(context.Background(), filepath.Join(n.dir, "pod-lost")); err != nil {
		t.Fatal(err)
	}
	n.detach(lost)
	for _, left := range n.leftovers() {
		if left == "address "+lost.ips[0].String() || left == "address "+lost.ips[1].String() {
			t.Errorf("left: %s", left)
		}
	}
	n.in(n.netns, func() error { return cni.Collect(context.Background(), n.networks) })
	// The kernel takes an interface back some time after its namespace.
	want := []string{"address", "address", "interface"}
	var left []string
	for range 6000 {
		if left = n.leftovers("pod-lost"); len(left) == len(want) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for i := range left {
		left[i], _, _ = strings.Cut(left[i], " ")
	}
	if !slices.Equal(left, want) {
		t.Errorf("only the other pod is to have anything: %q", left)
	}
	n.serve(n.outside, 81)
	n.want("the other pod after GC", n.ask(kept.NetNS, n.outsideAddress, 81), n.address.String())
	n.detach(kept)
	if left := n.leftovers("pod-lost", "pod-kept"); left != nil {
		t.Errorf("left: %q", left)
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	n := newNode(t, nil)
	const count = 12
	pods := make([]cni.Pod, count)
	for i := range pods {
		id := fmt.Sprintf("many-%d", i)
		pods[i] = cni.Pod{ID: id, Name: id, Namespace: "default", UID: id, NetNS: n.namespace(id)}
	}
	var mu sync.Mutex
	seen := make(map[netip.Addr]string)
	var group sync.WaitGroup
	for _, pod := range pods {
		group.Go(func() {
			err := namespaces.EnterNetwork(n.netns, func() error {
				attached, err := n.networks.Attach(context.Background(), pod)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				for _, ip := range attached.IPs {
					if other, ok := seen[ip]; ok {
						t.Errorf("%s and %s both have %s", pod.ID, other, ip)
					}
					seen[ip] = pod.ID
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, pod := range pods {
		group.Go(func() {
			err := namespaces.EnterNetwork(n.netns, func() error { return n.networks.Detach(context.Background(), pod.ID) })
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if left := n.leftovers("many-"); left != nil || len(seen) != 2*count {
		t.Errorf("%d addresses; left: %q", len(seen), left)
	}
}

// TestPluginThatRefusesItsDEL: portmap does not take its configuration, at the DEL neither. That
// debt stays, but what the rest of the chain has for the pod is given back.
func TestPluginThatRefusesItsDEL(t *testing.T) {
	n := newNode(t, func(_, portmap map[string]any) { portmap["markMasqBit"] = 77 })
	p := cni.Pod{ID: "pod-fails", Name: "x", Namespace: "x", NetNS: n.namespace("pod-fails"), PortMappings: []cni.PortMapping{{HostPort: 1, ContainerPort: 1}}}
	err := namespaces.EnterNetwork(n.netns, func() error {
		_, err := n.networks.Attach(context.Background(), p)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), `plugin "portmap", ADD`) || !strings.Contains(err.Error(), "MasqMarkBit") {
		t.Errorf("got %v", err)
	}
	n.in(n.netns, func() error { cni.PayDue(context.Background(), n.networks); return nil })
	if left := n.leftovers("pod-fails"); left != nil {
		t.Errorf("left: %q", left)
	}
	if pods, _ := n.networks.Pods(); len(pods) != 1 {
		t.Errorf("debts of %v", pods)
	}
}

// BenchmarkAttach is the ADD of a chain of bridge, host-local and portmap, with its debt.
func BenchmarkAttach(b *testing.B) {
	for name, ports := range map[string][]cni.PortMapping{"plain": nil, "hostPort": {{HostPort: 18080, ContainerPort: 80}}} {
		b.Run(name, func(b *testing.B) {
			n := newNode(b, nil)
			for i := range b.N {
				b.StopTimer()
				id := fmt.Sprintf("bench-%d", i)
				p := &pod{Pod: cni.Pod{ID: id, Name: id, Namespace: "default", UID: id, NetNS: n.namespace(id), PortMappings: ports}}
				n.in(n.netns, func() error {
					b.StartTimer()
					_, err := n.networks.Attach(context.Background(), p.Pod)
					b.StopTimer()
					return err
				})
				n.detach(p)
				b.StartTimer()
			}
		})
	}
}
