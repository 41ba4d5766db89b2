package namespaces

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes namespaces and mounts: run it as root")
	}
}

// createIn creates and removes at the end of the test.
func createIn(t testing.TB, req Request) Pins {
	t.Helper()
	needRoot(t)
	t.Cleanup(func() {
		if err := Remove(context.Background(), req.Dir); err != nil {
			t.Error(err)
		}
	})
	pins, err := Create(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	return pins
}

// enter runs fn inside of every pinned namespace.
func enter(t testing.TB, pins Pins, fn func() error) {
	t.Helper()
	err := onDoomedThread(func() error {
		for kind, path := range pins {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, 0); err != nil {
				return fmt.Errorf("enter %s: %w", kind, err)
			}
		}
		return fn()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func readSysctl(name string) string {
	data, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(data)), " ")
}

func namespaceID(t testing.TB, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func mountsUnder(t testing.TB, dir string) (mounts []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir) {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts
}

func TestCreateSetsTheNamespacesUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sandboxes", "one")
	nodeHostname, _ := os.Hostname()
	pins := createIn(t, Request{
		Dir: dir, Network: true, IPC: true, UTS: true, Hostname: "pod-one",
		Sysctls: map[string]string{
			"net.core.somaxconn":           "321",
			"net/ipv4/ip_forward":          "1",
			"net.ipv4.conf.lo.forwarding":  "0",
			"net.ipv4.ip_local_port_range": "20000 30000",
			"kernel.shmmax":                "123456789",
			"kernel.msgmax":                "9000",
			"kernel.sem":                   "100 200 30 40",
			"fs.mqueue.msg_max":            "17",
		},
	})
	if len(pins) != 3 || pins[Network] != filepath.Join(dir, "net") || pins[IPC] != filepath.Join(dir, "ipc") || pins[UTS] != filepath.Join(dir, "uts") {
		t.Fatalf("pins: %v", pins)
	}
	for kind, path := range pins {
		if namespaceID(t, path) == namespaceID(t, filepath.Join("/proc/self/ns", string(kind))) {
			t.Errorf("%s is the node's own", kind)
		}
	}
	enter(t, pins, func() error {
		var uts unix.Utsname
		if err := unix.Uname(&uts); err != nil {
			return err
		}
		if got := unix.ByteSliceToString(uts.Nodename[:]); got != "pod-one" {
			t.Errorf("host name %q", got)
		}
		for name, want := range map[string]string{
			"net/core/somaxconn":                  "321",
			"net/ipv4/ip_forward":                 "1",
			"net/ipv4/conf/lo/forwarding":         "0",
			"net/ipv4/ip_local_port_range":        "20000 30000",
			"net/ipv4/ip_unprivileged_port_start": "0",
			"net/ipv4/ping_group_range":           "0 2147483647",
			"net/ipv6/conf/all/accept_ra":         "0",
			"net/ipv6/conf/default/accept_ra":     "0",
			"kernel/shmmax":                       "123456789",
			"kernel/msgmax":                       "9000",
			"kernel/sem":                          "100 200 30 40",
			"fs/mqueue/msg_max":                   "17",
		} {
			if got := readSysctl(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
			listener, err := net.Listen("tcp", address)
			if err != nil {
				t.Errorf("lo is not ready: %v", err)
				continue
			}
			listener.Close()
		}
		return nil
	})
	if now, _ := os.Hostname(); now != nodeHostname {
		t.Errorf("the node's host name became %q", now)
	}
	if got := readSysctl("kernel/shmmax"); got == "123456789" {
		t.Error("the node's kernel.shmmax was changed")
	}
}

func TestSysctlOfThePodWinsOverADefault(t *testing.T) {
	pins := createIn(t, Request{Dir: t.TempDir(), Network: true, Sysctls: map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "512",
		"net.ipv6.conf.default.accept_ra":     "1",
	}})
	enter(t, pins, func() error {
		if got := readSysctl("net/ipv4/ip_unprivileged_port_start"); got != "512" {
			t.Errorf("ip_unprivileged_port_start is %s", got)
		}
		if got := readSysctl("net/ipv6/conf/default/accept_ra"); got != "1" {
			t.Errorf("accept_ra is %s", got)
		}
		return nil
	})
}

// What is mounted over a sysctl, such as another file of procfs, is not written in its place
// (CVE-2025-52881).
func TestSysctlUnderAMount(t *testing.T) {
	needRoot(t)
	const covered = "/proc/sys/net/core/somaxconn"
	decoy := filepath.Join(t.TempDir(), "decoy")
	if err := os.WriteFile(decoy, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]string{"a file of the node": decoy, "another sysctl": "/proc/sys/net/ipv4/tcp_fin_timeout"} {
		before, _ := os.ReadFile(source)
		var got string
		err := onDoomedThread(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
				return err
			}
			err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount(source, covered, "", unix.MS_BIND, ""))
			if err != nil {
				return err
			}
			if err := applySysctls([]sysctl{{key: "net.core.somaxconn", path: "net/core/somaxconn", value: "777"}}, 0); err != nil {
				return err
			}
			err = unix.Unmount(covered, unix.MNT_DETACH)
			got = readSysctl("net/core/somaxconn")
			return err
		})
		if err != nil || got != "777" {
			t.Errorf("under %s: the sysctl is %s, %v", name, got, err)
		}
		if after, _ := os.ReadFile(source); string(after) != string(before) {
			t.Errorf("%s became %q", name, after)
		}
	}
}

func TestCreateMakesOnlyWhatIsAsked(t *testing.T) {
	dir := t.TempDir()
	pins := createIn(t, Request{Dir: dir, IPC: true})
	if len(pins) != 1 || pins[IPC] == "" {
		t.Fatalf("pins: %v", pins)
	}
	if found := Find(dir); len(found) != 1 || found[IPC] != pins[IPC] {
		t.Fatalf("found: %v", found)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	// The last of the three pins is in the way of itself.
	if err := os.WriteFile(filepath.Join(dir, "uts"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Create(context.Background(), Request{Dir: dir, Network: true, IPC: true, UTS: true})
	if !errdefs.IsAlreadyExists(err) {
		t.Fatalf("got %v", err)
	}
	if mounts := mountsUnder(t, dir); mounts != nil {
		t.Errorf("left: %v", mounts)
	}
	for _, kind := range []Kind{Network, IPC} {
		if _, err := os.Lstat(filepath.Join(dir, string(kind))); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left: %v", kind, err)
		}
	}
}

func TestFailedSysctlLeavesNothing(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for key, value := range map[string]string{"net.no.such": "1", "net.ipv4.ip_forward": "many", "net.ipv4.conf": "1"} {
		_, err := Create(context.Background(), Request{Dir: dir, Network: true, Sysctls: map[string]string{key: value}})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestCreateValidatesTheHostname(t *testing.T) {
	for _, req := range []Request{
		{Dir: t.TempDir(), UTS: true, Hostname: strings.Repeat("h", 65)},
		{Dir: t.TempDir(), Network: true, Hostname: "shared"},
	} {
		if _, err := Create(context.Background(), req); !errdefs.IsInvalidArgument(err) {
			t.Errorf("host name %q: %v", req.Hostname, err)
		}
	}
}

func TestRemoveIsIdempotentAndSweepsLeftovers(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	dir := t.TempDir()
	pins, err := Create(ctx, Request{Dir: dir, Network: true, UTS: true})
	if err != nil {
		t.Fatal(err)
	}
	// Mounted upon twice, and one file that never was mounted upon, as after a crash.
	if err := unix.Mount("/proc/self/ns/net", pins[Network], "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ipc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if found := Find(dir); len(found) != 2 {
		t.Errorf("found %v", found)
	}
	for range 2 {
		if err := Remove(ctx, dir); err != nil {
			t.Fatal(err)
		}
	}
	if mounts := mountsUnder(t, dir); mounts != nil {
		t.Errorf("left: %v", mounts)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("want only resolv.conf: %v", entries)
	}
	if err := Remove(ctx, filepath.Join(dir, "never", "was")); err != nil {
		t.Error(err)
	}
	if err := Remove(ctx, filepath.Join(other, "below-a-file")); err != nil {
		t.Error(err)
	}
}

// TestRemoveReachesPeers sees to it that a pin on a shared mount does not live on in the mount
// namespaces that got a copy of it.
func TestRemoveReachesPeers(t *testing.T) {
	needRoot(t)
	for _, propagation := range []struct {
		name string
		flag uintptr
		seen int
	}{{"shared", unix.MS_SHARED, 1}, {"private", unix.MS_PRIVATE, 0}} {
		t.Run(propagation.name, func(t *testing.T) {
			state := t.TempDir()
			if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=64k"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
			if err := unix.Mount("", state, "", propagation.flag, ""); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(state, "pod")
			created, removed := make(chan struct{}), make(chan struct{})
			looked, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				ended <- onDoomedThread(func() error {
					defer close(looked)
					if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
						return err
					}
					looked <- struct{}{}
					<-created
					if got := len(mountsUnder(t, dir)); got != propagation.seen {
						t.Errorf("a peer sees %d pins, want %d", got, propagation.seen)
					}
					looked <- struct{}{}
					<-removed
					if got := mountsUnder(t, dir); got != nil {
						t.Errorf("a peer keeps %v", got)
					}
					return nil
				})
			}()
			<-looked
			createIn(t, Request{Dir: dir, Network: true})
			close(created)
			<-looked
			if err := Remove(context.Background(), dir); err != nil {
				t.Error(err)
			}
			close(removed)
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestPinOfAProcess(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "pod")
	t.Cleanup(func() { _ = Remove(ctx, dir) })
	path, err := Pin(ctx, dir, PID, "/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	if namespaceID(t, path) != namespaceID(t, "/proc/self/ns/pid") {
		t.Error("another namespace was pinned")
	}
	if _, err := Pin(ctx, dir, PID, "/proc/self/ns/pid"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second pin: %v", err)
	}
	if _, err := Pin(ctx, dir, User, "/proc/self/ns/no-such"); err == nil {
		t.Error("pinned nothing")
	}
	if found := Find(dir); len(found) != 1 {
		t.Errorf("found %v", found)
	}
}

// TestThreadsStayHome makes many namespaces at once and then looks at every thread that is
// left: none may be in a namespace of a pod, least of all the main thread.
func TestThreadsStayHome(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	home := namespaceID(t, "/proc/self/ns/net")
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			dir := filepath.Join(base, fmt.Sprint(i))
			if _, err := Create(context.Background(), Request{Dir: dir, Network: true, IPC: true, UTS: true}); err != nil {
				t.Error(err)
			}
			if err := Remove(context.Background(), dir); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		var stat unix.Stat_t
		err := unix.Stat("/proc/self/task/"+task.Name()+"/ns/net", &stat)
		if err == nil && stat.Ino != home && !endsSoon(task.Name()) {
			t.Errorf("thread %s stayed in a pod", task.Name())
		}
	}
	if mounts := mountsUnder(t, base); mounts != nil {
		t.Errorf("left: %v", mounts)
	}
}

// endsSoon waits for a thread that the runtime is about to end.
func endsSoon(task string) bool {
	for range 1000 {
		if _, err := os.Stat("/proc/self/task/" + task); errors.Is(err, os.ErrNotExist) {
			return true
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 2e6}, nil)
	}
	return false
}

func BenchmarkCreateAndRemove(b *testing.B) {
	needRoot(b)
	base := b.TempDir()
	for i := range b.N {
		dir := filepath.Join(base, fmt.Sprint(i))
		_, err := Create(context.Background(), Request{Dir: dir, Network: true, IPC: true, UTS: true, Hostname: "bench"})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := Remove(context.Background(), dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
