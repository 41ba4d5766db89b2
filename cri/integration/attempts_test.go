package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// The default profile keeps a container from the kernel's own cryptography (CVE-2026-31431)
// and from the machine's hypervisor.
func TestSocketsOfTheDefaultProfile(t *testing.T) {
	dir := shortDir(t)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "sockets"), "./testdata/sockets")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v: %s", err, out)
	}
	const unix, inet, alg, vsock = "1", "2", "38", "40"
	p := runPod(t, hostNetwork)
	for _, user := range []int64{0, unprivilegedUser} {
		c := p.run(mount(dir, "/x"), security(func(s securityContext) {
			s.RunAsUser = &runtimeapi.Int64Value{Value: user}
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		}))
		got := c.exec("/x/sockets", unix, inet, alg, vsock)
		for _, want := range []string{"1: <nil>", "2: <nil>"} {
			if !strings.Contains(got, want) {
				t.Errorf("user %d cannot have a plain socket:\n%s", user, got)
			}
		}
		for _, refused := range []string{alg, vsock} {
			if strings.Contains(got, refused+": <nil>") || !strings.Contains(got, refused+": ") {
				t.Errorf("user %d can have a socket of family %s:\n%s", user, refused, got)
			}
			// By the filter, not because the kernel has no such family.
			if strings.Contains(got, refused+": address family not supported") {
				continue
			}
			if !strings.Contains(got, refused+": operation not permitted") {
				t.Errorf("family %s is not refused by the filter:\n%s", refused, got)
			}
		}
	}
}

// An image's user is read in one way only, and a process that is executed later has the
// identity of the first (CVE-2026-30892: "1" became root).
func TestUserStrings(t *testing.T) {
	p := runPod(t, hostNetwork)
	for user, want := range map[string]string{
		"": "0 0", "0": "0 0", "1": "1 0", "1:1": "1 1", "01": "1 0", "app": "1000 1000", "app:extra": "1000 2000", "1000": "1000 1000",
		"1000:0": "1000 0", "app:7": "1000 7", "nobody:app": "65534 1000", "2147483647": "2147483647 0",
		"-1": "", "1:-1": "", "4294967295": "", "4294967296": "", "18446744073709551617": "", "1x": "", "0x1": "", " 1": "", "1 ": "", "+1": "", "1:": "1 0", "root\n": "", "nosuch": "", "app:nosuch": "", "1:2:3": "",
	} {
		option := hostileImage(t, "user", func(i *imagetest.Image) {
			i.Config.Config = ocispec.ImageConfig{User: user, Env: []string{"PATH=/bin"}}
		})
		shared.pullAnew(t, option)
		c, err := p.tryCreate(option)
		if err != nil {
			if want != "" {
				t.Errorf("user %q: %v", user, err)
			}
			continue
		}
		if want == "" {
			t.Errorf("user %q: a container was created", user)
			continue
		}
		c.start()
		for _, pid := range []string{"1", "self"} {
			uid, gid := strings.Fields(c.procStatus(pid, "Uid")), strings.Fields(c.procStatus(pid, "Gid"))
			got := uid[0] + " " + gid[0]
			same(t, fmt.Sprintf("user %q, process %s", user, pid), got, want)
			same(t, "all kinds of IDs", strings.Join(append(uid, gid...), " "), strings.Join([]string{uid[0], uid[0], uid[0], uid[0], gid[0], gid[0], gid[0], gid[0]}, " "))
		}
		same(t, fmt.Sprintf("groups of user %q", user), c.procStatus("self", "Groups"), c.procStatus("1", "Groups"))
	}
}

// pullAnew pulls what a tag stands for now.
func (d *daemon) pullAnew(t testing.TB, option ctrOption) {
	t.Helper()
	c := &runtimeapi.ContainerConfig{Image: &runtimeapi.ImageSpec{}}
	option(c)
	d.pull(t, c.Image.Image)
}

// Attempts that fail leave neither goroutines nor descriptors, however many there are
// (CVE-2022-23471, CVE-2025-64329).
func TestFailedSessionsLeaveNoGoroutines(t *testing.T) {
	address := freeAddress(t)
	d := ownDaemon(t, "metrics:\n  address: "+address+"\n")
	d.pull(t, busybox)
	p := d.runPod(t, hostNetwork)
	c, ended := p.run(), p.run(shell("true"))
	ended.wait()
	attempt := func(i int) {
		tty := i%2 == 0
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := stream(t, ctx, "SPDY", c.execURL(t, &runtimeapi.ExecRequest{Cmd: []string{"no-such-command"}, Stdin: true, Stdout: true, Tty: tty}),
			remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Tty: tty}); err == nil {
			t.Fatal("a command that does not exist ran")
		}
		if _, _, err := d.runtime.ExecSync(ctx, c.id, []string{"no-such-command"}, time.Second); err == nil {
			t.Fatal("a command that does not exist ran")
		}
		if _, err := d.runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: ended.id, Stdout: true}); err == nil {
			t.Fatal("a container that has ended was attached to")
		}
		// A session that is asked for and never begun, and one whose client leaves at once.
		resp, err := d.runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: c.id, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			gone, leave := context.WithTimeout(ctx, 20*time.Millisecond)
			defer leave()
			_ = stream(t, gone, "SPDY", resp.Url, remotecommand.StreamOptions{Stdout: io.Discard})
		}
	}
	for i := range 10 {
		attempt(i) // opens what is opened once
	}
	goroutines, descriptors := scrape(t, address, "go_goroutines"), scrape(t, address, "process_open_fds")
	const attempts, slack = 100, 15
	for i := range attempts {
		attempt(i)
	}
	eventually(t, "goroutines and descriptors are as few as before", func() bool {
		return scrape(t, address, "go_goroutines") < goroutines+slack && scrape(t, address, "process_open_fds") < descriptors+slack
	})
}

// freeAddress is one on which a daemon can listen.
func freeAddress(t testing.TB) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	return free.Addr().String()
}

// scrape reads a metric; name has its labels.
func scrape(t testing.TB, address, name string) int {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}
