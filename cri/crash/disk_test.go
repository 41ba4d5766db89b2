package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is an ext4 file system on a device of ours.
type disk struct {
	*device
	dir string
}

// newDisk makes and mounts one of size bytes.
func newDisk(t *testing.T, size int64) disk {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(file)
	if err == nil {
		err = f.Truncate(size)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", file)
	d := disk{device: newDevice(t, file), dir: mountpoint(t)}
	mount(t, d.path, d.dir)
	return d
}

// mountpoint is a directory whose path leaves room for those of sockets.
func mountpoint(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bcd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	return dir
}

// mountOptions have ext4 write its journal every second, as if much was going on.
// Without auto_da_alloc it does what POSIX allows and others do: the new name of a file
// may come to the disk before its content.
const mountOptions = "loop,commit=1,errors=remount-ro,noauto_da_alloc"

// mount mounts the file system in a file.
func mount(t *testing.T, file, dir string) {
	t.Helper()
	command(t, "mount", "-o", mountOptions, file, dir)
	t.Cleanup(func() {
		// A test may have unmounted it by itself.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// repair is fsck for the file system itself, which replays the journal: a test of ours
// proves nothing on a broken one.
func repair(t *testing.T, file string) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-p", file).CombinedOutput()
	if code := exitCode(err); code > 1 {
		t.Fatalf("e2fsck: %v: %s", err, out)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return 128
	}
	return 0
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// otherBoot is a command that runs its arguments where the kernel seems to have been
// started anew.
func otherBoot(t *testing.T, number int) []string {
	t.Helper()
	id := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(id, fmt.Appendf(nil, "00000000-0000-4000-8000-%012d\n", number), 0o444); err != nil {
		t.Fatal(err)
	}
	return []string{"unshare", "--mount", "--propagation", "slave", "sh", "-c",
		`mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, id}
}
