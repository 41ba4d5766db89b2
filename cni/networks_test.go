package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func somePod(id string) Pod {
	// The namespace of the tests itself: a live one that needs no privileges.
	return Pod{ID: id, Name: "web", Namespace: "shop", UID: "uid-" + id, NetNS: "/proc/self/ns/net"}
}

func attach(t *testing.T, n *Networks, pod Pod) *Attachment {
	t.Helper()
	attached, err := n.Attach(context.Background(), pod)
	if err != nil {
		t.Fatal(err)
	}
	return attached
}

func wantSteps(t *testing.T, h *host, want ...string) {
	t.Helper()
	if got := h.steps(); !slices.Equal(got, want) {
		t.Errorf("steps: %q\nwant:  %q", got, want)
	}
}

// running has Run work until the test ends.
func running(t *testing.T, n *Networks) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestAttachRunsTheChain(t *testing.T) {
	h := newHost(t, "fake-main", "fake-meta")
	meta := h.fake("fake-meta", fake{})
	meta["capabilities"] = map[string]bool{"portMappings": true, "bandwidth": true, "dns": true, "cgroupPath": true, "mac": true}
	h.write("10.conflist", "shop", "1.0.0", h.main(nil), meta)
	n := h.networks()
	pod := somePod("pod1")
	pod.PortMappings = []PortMapping{
		{Protocol: "UDP", HostIP: "127.0.0.1", HostPort: 5353, ContainerPort: 53},
		{HostPort: 8080, ContainerPort: 80},
		{Protocol: "TCP", ContainerPort: 443},
	}
	pod.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1G"}
	pod.DNS = DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"cluster.local"}, Options: []string{"ndots:5"}}
	pod.CgroupParent = "/kubepods/pod1"

	attached := attach(t, n, pod)
	want := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}
	if !slices.Equal(attached.IPs, want) || attached.Network != "shop" {
		t.Errorf("attached %+v", attached)
	}
	if !json.Valid(attached.Result) || !strings.Contains(string(attached.Result), "203.0.113.1") {
		t.Errorf("result %s", attached.Result)
	}
	wantSteps(t, h, "fake-main ADD", "fake-meta ADD")
	calls := h.calls()
	for _, c := range calls {
		if c.ContainerID != "pod1" || c.NetNS != pod.NetNS || c.IfName != "eth0" || c.Path != h.bin {
			t.Errorf("called with %+v", c)
		}
		if want := "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=uid-pod1"; c.Args != want {
			t.Errorf("CNI_ARGS %s", c.Args)
		}
	}
	if calls[0].Stdin["runtimeConfig"] != nil {
		t.Error("a plugin without capabilities got arguments")
	}
	got, _ := json.Marshal(calls[1].Stdin["runtimeConfig"])
	if want := `{"bandwidth":{"egressBurst":2147483647,"egressRate":1000000000,"ingressBurst":2147483647,"ingressRate":10000000},` +
		`"cgroupPath":"/kubepods/pod1","dns":{"options":["ndots:5"],"searches":["cluster.local"],"servers":["10.0.0.10"]},` +
		`"portMappings":[{"containerPort":53,"hostIP":"127.0.0.1","hostPort":5353,"protocol":"udp"},{"containerPort":80,"hostPort":8080,"protocol":"tcp"}]}`; string(got) != want {
		t.Errorf("runtimeConfig %s", got)
	}
	if calls[1].Stdin["prevResult"] == nil {
		t.Error("the chain got no previous result")
	}

	for range 2 {
		if err := n.Detach(context.Background(), "pod1"); err != nil {
			t.Fatal(err)
		}
	}
	wantSteps(t, h, "fake-main ADD", "fake-meta ADD", "fake-meta DEL", "fake-main DEL")
	last := h.calls()[3]
	if last.Stdin["prevResult"] == nil || last.Args != calls[0].Args || last.NetNS != pod.NetNS {
		t.Errorf("DEL with %+v", last)
	}
	h.clean()
}

func TestDebtIsOnRecordDuringADD(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(map[string]string{"ADD": "slow"}))
	n := h.networks()
	done := make(chan error, 1)
	go func() {
		_, err := n.Attach(context.Background(), somePod("pod1"))
		done <- err
	}()
	eventually(t, "the plugin runs", func() bool { return h.steps() != nil })
	if debts := h.debts(); len(debts) != 1 || debts[0] != "pod1@shop.json" {
		t.Errorf("debts while the plugin runs: %v", debts)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestFailedADDIsUndone(t *testing.T) {
	for behaviour, want := range map[string]string{
		"fail":    `plugin "fake-meta", ADD: no more addresses; range 10.0.0.0/30 (CNI error 11)`,
		"crash":   `plugin "fake-meta", ADD: exit status 2: panic: not today`,
		"flood":   `plugin "fake-meta", ADD: it wrote more than 1048576 bytes`,
		"garbage": "invalid character",
	} {
		t.Run(behaviour, func(t *testing.T) {
			h := newHost(t, "fake-main", "fake-meta")
			h.write("10.conflist", "shop", "1.0.0", h.main(nil), h.fake("fake-meta", fake{Behave: map[string]string{"ADD": behaviour}}))
			_, err := h.networks().Attach(context.Background(), somePod("pod1"))
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `attach pod "pod1" to network "shop"`) {
				t.Errorf("got %v", err)
			}
			if behaviour == "fail" && !errdefs.IsUnavailable(err) {
				t.Errorf("kind of %v", err)
			}
			wantSteps(t, h, "fake-main ADD", "fake-meta ADD", "fake-meta DEL", "fake-main DEL")
			h.clean()
		})
	}
}

func TestNetworkWithoutAddressesIsUndone(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.fake("fake-main", fake{}))
	_, err := h.networks().Attach(context.Background(), somePod("pod1"))
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "no address") {
		t.Errorf("got %v", err)
	}
	h.clean()
}

func TestHangingPluginIsKilled(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(map[string]string{"ADD": "hang"}))
	opts := h.options()
	opts.Timeout = 3 * time.Second
	_, err := New(opts).Attach(context.Background(), somePod("pod1"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `plugin "fake-main", ADD: no answer within 3`) {
		t.Errorf("got %v", err)
	}
	child := childOf(h)
	for _, pid := range []int{h.calls()[0].Pid, child} {
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool { return dead(pid) })
	}
	wantSteps(t, h, "fake-main ADD", "fake-main DEL")
	h.clean()
}

// childOf returns the process that a plugin started.
func childOf(h *host) int {
	h.t.Helper()
	data, err := os.ReadFile(filepath.Join(h.plugins, "child"))
	if err != nil {
		h.t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil || pid < 2 {
		h.t.Fatalf("child %q: %v", data, err)
	}
	return pid
}

// dead also takes a zombie that nobody has reaped yet.
func dead(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestCallerThatGoesAwayLeavesNothing(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(map[string]string{"ADD": "hang"}))
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for len(h.steps()) == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	if _, err := h.networks().Attach(ctx, somePod("pod1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	h.clean()
}

func TestPluginThatLeavesAProcessDoesNotBlock(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(map[string]string{"ADD": "leave"}))
	opts := h.options()
	opts.Timeout = 8 * time.Second // less than that process lives
	attach(t, New(opts), somePod("pod1"))
	if err := syscall.Kill(childOf(h), syscall.SIGKILL); err != nil {
		t.Errorf("the process is not to be ended with its plugin: %v", err)
	}
}

func TestFailedDELIsRetried(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	n := h.networks()
	attach(t, n, somePod("pod1"))
	h.uninstall("fake-main")

	err := n.Detach(context.Background(), "pod1")
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), `"fake-main" missing in `+h.bin) {
		t.Errorf("got %v", err)
	}
	if len(h.held()) != 1 || len(h.debts()) != 1 {
		t.Fatalf("held %v, debts %v", h.held(), h.debts())
	}
	// The pod is gone, its configuration too, and berthd was restarted.
	n.Release(context.Background(), "pod1")
	if err := os.Remove(filepath.Join(h.conf, "10.conflist")); err != nil {
		t.Fatal(err)
	}
	n = h.networks()
	running(t, n)
	h.install("fake-main")
	eventually(t, "the debt is paid", func() bool { return len(h.debts()) == 0 })
	h.clean()
	wantSteps(t, h, "fake-main ADD", "fake-main DEL")
}

func TestMissingPluginKeepsOnlyItsOwn(t *testing.T) {
	h := newHost(t, "fake-main", "fake-meta")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil), h.fake("fake-meta", fake{}))
	n := h.networks()
	attach(t, n, somePod("pod1"))
	h.uninstall("fake-meta")
	if err := n.Detach(context.Background(), "pod1"); err == nil {
		t.Error("no error")
	}
	if held := h.held(); len(held) != 2 {
		t.Errorf("the chain went on after a failure: held %v", held)
	}
	running(t, n)
	eventually(t, "the rest of the chain is run", func() bool { return slices.Equal(h.held(), []string{"fake-meta.pod1.eth0"}) })
	if len(h.debts()) != 1 {
		t.Error("the debt is lost")
	}
	h.install("fake-meta")
	eventually(t, "the debt is paid", func() bool { return len(h.debts()) == 0 })
	h.clean()
}

func TestReleaseIsPaidByRun(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	n := h.networks()
	running(t, n)
	for i := range 10 {
		attach(t, n, somePod(fmt.Sprint("pod", i)))
	}
	for i := range 9 {
		n.Release(context.Background(), fmt.Sprint("pod", i))
	}
	n.Release(context.Background(), "never-was")
	eventually(t, "the debts are paid", func() bool { return len(h.debts()) == 1 })
	if pods, err := n.Pods(); err != nil || !slices.Equal(pods, []string{"pod9"}) {
		t.Errorf("pods %v, %v", pods, err)
	}
	if held := h.held(); !slices.Equal(held, []string{"fake-main.pod9.eth0"}) {
		t.Errorf("held %v", held)
	}
}

func TestDELWithoutTheNamespace(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	n := h.networks()
	gone := filepath.Join(t.TempDir(), "net")
	unpinned := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(unpinned, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for id, netns := range map[string]string{"pod1": gone, "pod2": unpinned} {
		pod := somePod(id)
		pod.NetNS = netns
		attach(t, n, pod)
		if err := n.Detach(context.Background(), id); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range h.calls() {
		if c.Command == "DEL" && c.NetNS != "" {
			t.Errorf("DEL in %q", c.NetNS)
		}
	}
	h.clean()
}

func TestDELUsesTheConfigurationOfTheADD(t *testing.T) {
	h := newHost(t, "fake-main", "fake-other")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	n := h.networks()
	attach(t, n, somePod("pod1"))
	h.write("10.conflist", "shop", "1.0.0", h.fake("fake-other", fake{IPs: []string{"10.9.9.9/24"}}))
	n.reload()
	attach(t, n, somePod("pod2"))
	for _, id := range []string{"pod1", "pod2"} {
		if err := n.Detach(context.Background(), id); err != nil {
			t.Fatal(err)
		}
	}
	wantSteps(t, h, "fake-main ADD", "fake-other ADD", "fake-main DEL", "fake-other DEL")
	h.clean()
}

func TestDebtsSurviveAKill(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	attach(t, h.networks(), somePod("pod1"))
	// Killed while it wrote another.
	if err := os.WriteFile(filepath.Join(h.state, "debts", ".debt-123"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := h.networks()
	if pods, err := n.Pods(); err != nil || !slices.Equal(pods, []string{"pod1"}) {
		t.Errorf("pods %v, %v", pods, err)
	}
	if err := n.Detach(context.Background(), "pod1"); err != nil {
		t.Fatal(err)
	}
	h.clean()
	if entries, _ := os.ReadDir(filepath.Join(h.state, "debts")); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

// TestDebtCutByAPowerLoss: the name of the file is on disk, its content is not.
func TestDebtCutByAPowerLoss(t *testing.T) {
	for _, content := range []string{"", `{"version":1,"podID":"pod`, `{"version":99,"podID":"pod1","network":"shop"}`} {
		h := newHost(t, "fake-main")
		h.write("10.conflist", "shop", "1.0.0", h.main(nil))
		attach(t, h.networks(), somePod("pod1"))
		if err := os.WriteFile(filepath.Join(h.state, "debts", "pod1@shop.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		n := h.networks()
		n.Release(context.Background(), "pod1")
		running(t, n)
		eventually(t, "the debt is paid", func() bool { return len(h.debts()) == 0 })
		h.clean()
	}
}

func TestDamagedDebtOfAnUnknownNetworkStays(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	attach(t, h.networks(), somePod("pod1"))
	if err := os.Truncate(filepath.Join(h.state, "debts", "pod1@shop.json"), 0); err != nil {
		t.Fatal(err)
	}
	h.write("10.conflist", "mall", "1.0.0", h.main(nil))
	n := h.networks()
	if err := n.Detach(context.Background(), "pod1"); err == nil || !strings.Contains(err.Error(), `network "shop" is not configured`) {
		t.Errorf("got %v", err)
	}
	if len(h.debts()) != 1 {
		t.Error("the debt is lost")
	}
}

func TestAttachAgainDetachesFirst(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	n := h.networks()
	attach(t, n, somePod("pod1"))
	attach(t, n, somePod("pod1"))
	wantSteps(t, h, "fake-main ADD", "fake-main DEL", "fake-main ADD")
}

func TestPluginOfAnEarlierRunIsEnded(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(map[string]string{"ADD": "hang"}))
	first := h.networks()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = first.Attach(ctx, somePod("pod1"))
	}()
	t.Cleanup(func() { cancel(); <-ended })
	eventually(t, "the plugin runs", func() bool { _, err := os.Stat(filepath.Join(h.plugins, "child")); return err == nil })

	if _, err := h.networks().Pods(); err != nil {
		t.Fatal(err)
	}
	child := childOf(h)
	for _, pid := range []int{h.calls()[0].Pid, child} {
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool { return dead(pid) })
	}
}

func TestPodsDoNotWaitForEachOther(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(map[string]string{"ADD": "hang"}))
	n := h.networks()
	ctx, cancel := context.WithCancel(context.Background())
	hung := make(chan struct{})
	go func() {
		defer close(hung)
		_, _ = n.Attach(ctx, somePod("sick"))
	}()
	eventually(t, "the plugin hangs", func() bool { return len(h.steps()) == 1 })
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	n.reload()
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if _, err := n.Attach(context.Background(), somePod(fmt.Sprint("pod", i))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	// Operations on the sick one wait their turn, as long as their caller does.
	short, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	if err := n.Detach(short, "sick"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "earlier operation") {
		t.Errorf("got %v", err)
	}
	cancel()
	<-hung
	if held := h.held(); len(held) != 8 {
		t.Errorf("held %v", held)
	}
}

func TestIdlePluginsAreSkipped(t *testing.T) {
	h := newHost(t, "fake-main", "portmap", "bandwidth")
	portmap, limit := h.fake("portmap", fake{}), h.fake("bandwidth", fake{})
	portmap["capabilities"] = map[string]bool{"portMappings": true}
	limit["capabilities"] = map[string]bool{"bandwidth": true}
	h.write("10.conflist", "shop", "1.0.0", h.main(nil), portmap, limit)
	n := h.networks()
	ctx := context.Background()

	attach(t, n, somePod("plain"))
	if err := n.Detach(ctx, "plain"); err != nil {
		t.Fatal(err)
	}
	// The fake bandwidth has a key of its own in its configuration, as one with limits has.
	wantSteps(t, h, "fake-main ADD", "bandwidth ADD", "bandwidth DEL", "fake-main DEL")

	mapped := somePod("mapped")
	mapped.PortMappings = []PortMapping{{HostPort: 80, ContainerPort: 80}}
	attach(t, n, mapped)
	if err := h.networks().Detach(ctx, "mapped"); err != nil {
		t.Fatal(err)
	}
	wantSteps(t, h, "fake-main ADD", "bandwidth ADD", "bandwidth DEL", "fake-main DEL",
		"fake-main ADD", "portmap ADD", "bandwidth ADD", "bandwidth DEL", "portmap DEL", "fake-main DEL")
	h.clean()
}

func TestPodThatPluginsCannotBeToldOf(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	n := h.networks()
	for name, change := range map[string]func(*Pod){
		"ID with a slash":      func(p *Pod) { p.ID = "../pod" },
		"no ID":                func(p *Pod) { p.ID = "" },
		"no namespace":         func(p *Pod) { p.NetNS = "" },
		"name with arguments":  func(p *Pod) { p.Name = "web;K8S_POD_NAMESPACE=other" },
		"protocol":             func(p *Pod) { p.PortMappings = []PortMapping{{Protocol: "icmp", HostPort: 1, ContainerPort: 1}} },
		"host port":            func(p *Pod) { p.PortMappings = []PortMapping{{HostPort: 65536, ContainerPort: 1}} },
		"container port":       func(p *Pod) { p.PortMappings = []PortMapping{{HostPort: 1}} },
		"host IP":              func(p *Pod) { p.PortMappings = []PortMapping{{HostPort: 1, ContainerPort: 1, HostIP: "here"}} },
		"bandwidth":            func(p *Pod) { p.Annotations = map[string]string{ingressAnnotation: "fast"} },
		"bandwidth too small":  func(p *Pod) { p.Annotations = map[string]string{egressAnnotation: "1"} },
		"bandwidth impossible": func(p *Pod) { p.Annotations = map[string]string{egressAnnotation: "-5M"} },
	} {
		pod := somePod("pod1")
		change(&pod)
		if _, err := n.Attach(context.Background(), pod); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h.steps() != nil {
		t.Error("a plugin was run")
	}
	h.clean()
}

func TestFullDiskFailsBeforeAPluginRuns(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a small file system: run it as root")
	}
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	if err := os.Mkdir(h.state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", h.state, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(h.state, syscall.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(h.state, "filler"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.networks().Attach(context.Background(), somePod("pod1"))
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "write debt") {
		t.Errorf("got %v", err)
	}
	if h.steps() != nil {
		t.Error("a plugin was run")
	}
	if debts := h.debts(); debts != nil {
		t.Errorf("left: %v", debts)
	}
	if entries, _ := os.ReadDir(filepath.Join(h.state, "debts")); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestDaemonEnvironmentStaysHome(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	t.Setenv("LISTEN_FDS", "1")
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	attach(t, h.networks(), somePod("pod1"))
	env := h.calls()[0].Env
	for _, name := range []string{"NOTIFY_SOCKET", "LISTEN_FDS"} {
		if envValue(env, name) != "" {
			t.Errorf("a plugin got %s", name)
		}
	}
	if envValue(env, "PATH") == "" {
		t.Error("a plugin got no PATH")
	}
}
