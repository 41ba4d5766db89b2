package namespaces

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var testMapping = UserMapping{
	UIDs: []IDRange{{ContainerID: 0, HostID: 200000, Length: 65536}},
	GIDs: []IDRange{{ContainerID: 0, HostID: 300000, Length: 65536}},
}

// ownerOf is the inode of the user namespace that a namespace belongs to.
func ownerOf(t *testing.T, path string) uint64 {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	owner, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(owner)
	var st unix.Stat_t
	if err := unix.Fstat(owner, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestUserNamespaceOwnsTheOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pins")
	pins := createIn(t, Request{
		Dir: dir, Network: true, IPC: true, UTS: true, Hostname: "pod", User: &testMapping,
		Sysctls: map[string]string{"kernel.shm_rmid_forced": "1", "kernel.msgmax": "4096", "net.ipv4.ip_forward": "1", "fs.mqueue.msg_max": "7"},
	})
	if len(pins) != 4 {
		t.Fatalf("the pins are %v", pins)
	}
	own := namespaceID(t, pins[User])
	if own == namespaceID(t, "/proc/self/ns/user") {
		t.Error("the user namespace is the node's")
	}
	for _, kind := range []Kind{Network, IPC, UTS} {
		if got := ownerOf(t, pins[kind]); got != own {
			t.Errorf("the %s namespace belongs to %d, not to %d", kind, got, own)
		}
	}
	if found := Find(dir); len(found) != 4 {
		t.Errorf("found %v", found)
	}
	delete(pins, User) // no thread of this process can enter it
	enter(t, pins, func() error {
		for name, want := range map[string]string{
			"kernel/shm_rmid_forced": "1", "kernel/msgmax": "4096", "net/ipv4/ip_forward": "1",
			"fs/mqueue/msg_max": "7", "kernel/hostname": "pod", "net/ipv6/conf/all/accept_ra": "0",
		} {
			if got := readSysctl(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		queues, err := detached("mqueue")
		if err != nil {
			return err
		}
		defer unix.Close(queues)
		var st unix.Stat_t
		if err := unix.Fstat(queues, &st); err != nil || st.Uid != 200000 || st.Gid != 300000 {
			t.Errorf("the message queues belong to %d:%d, %v", st.Uid, st.Gid, err)
		}
		return nil
	})
	if uid := unix.Geteuid(); uid != 0 {
		t.Errorf("the process became user %d", uid)
	}
}

func TestUserNamespaceAlone(t *testing.T) {
	pins := createIn(t, Request{Dir: filepath.Join(t.TempDir(), "pins"), User: &testMapping})
	if len(pins) != 1 || pins[User] == "" {
		t.Errorf("the pins are %v", pins)
	}
}

func TestFailedUserNamespaceLeavesNothing(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "pins")
	twice := UserMapping{UIDs: []IDRange{{0, 1000, 10}, {0, 5000, 10}}, GIDs: testMapping.GIDs}
	if _, err := Create(t.Context(), Request{Dir: dir, IPC: true, User: &twice}); err == nil || !strings.Contains(err.Error(), "user namespace") {
		t.Errorf("a contradictory mapping: %v", err)
	}
	bad := map[string]string{"kernel.shmmax": "nonsense"}
	if _, err := Create(t.Context(), Request{Dir: dir, IPC: true, User: &testMapping, Sysctls: bad}); err == nil {
		t.Error("a value that the kernel refuses was taken")
	}
	if left := mountsUnder(t, dir); len(left) > 0 {
		t.Errorf("left mounted: %v", left)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestOpenUser(t *testing.T) {
	needRoot(t)
	before := children(t)
	f, err := OpenUser(testMapping)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.NSFS_MAGIC {
		t.Errorf("the descriptor is of a file system %#x, %v", st.Type, err)
	}
	if after := children(t); !slices.Equal(before, after) {
		t.Errorf("children %v became %v", before, after)
	}
}

// children are the processes of this one.
func children(t *testing.T) []string {
	t.Helper()
	var all []string
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil {
			all = append(all, strings.Fields(string(data))...)
		}
	}
	slices.Sort(all)
	return all
}

func TestHostRoot(t *testing.T) {
	if uid, gid := testMapping.HostRoot(); uid != 200000 || gid != 300000 {
		t.Errorf("root is %d:%d", uid, gid)
	}
	shifted := UserMapping{UIDs: []IDRange{{1, 10, 5}, {0, 77, 1}}}
	if uid, gid := shifted.HostRoot(); uid != 77 || gid != 0 {
		t.Errorf("root is %d:%d", uid, gid)
	}
}

func BenchmarkCreateWithUser(b *testing.B) {
	for b.Loop() {
		dir := b.TempDir()
		if _, err := Create(b.Context(), Request{Dir: dir, Network: true, IPC: true, UTS: true, User: &testMapping}); err != nil {
			b.Fatal(err)
		}
		if err := Remove(b.Context(), dir); err != nil {
			b.Fatal(err)
		}
	}
}
