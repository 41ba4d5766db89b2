package tree

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
}

// deep makes a chain of n directories below dir.
func deep(t *testing.T, dir string, n int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// memory mounts a tmpfs: what is tested here is the depth, not the disk.
func memory(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestRemoveDeepTree(t *testing.T) {
	dir := memory(t)
	root := filepath.Join(dir, "deep")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	deep(t, root, 100_000)
	if err := RemovePath(dir, "deep"); err != nil {
		t.Fatal(err)
	}
	if exists(root) {
		t.Fatal("still there")
	}
}

func TestRemoveDoesNotFollow(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	keep := filepath.Join(dir, "keep")
	root := filepath.Join(dir, "root", "a")
	for _, d := range []string{keep, root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(keep, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for i, target := range []string{keep, "../../keep", "/"} {
		if err := os.Symlink(target, filepath.Join(root, fmt.Sprint("link", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(keep, filepath.Join(dir, "toplink")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"root", "toplink", "absent"} {
		if err := RemovePath(dir, name); err != nil {
			t.Fatal(err)
		}
		if exists(filepath.Join(dir, name)) {
			t.Errorf("%s is still there", name)
		}
	}
	if !exists(filepath.Join(keep, "file")) {
		t.Fatal("a link was followed")
	}
}

func TestRemoveManyAndOdd(t *testing.T) {
	dir := memory(t)
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "many"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 2*namesPerRead + 1 {
		if err := os.WriteFile(filepath.Join(root, "many", fmt.Sprint(i)), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(root, "fifo"), unix.S_IFIFO, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(root, "null"), unix.S_IFCHR, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "closed", ".moved-1"), nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := RemovePath(dir, "root"); err != nil {
		t.Fatal(err)
	}
	if exists(root) {
		t.Fatal("still there")
	}
}

func TestMeasure(t *testing.T) {
	dir := memory(t)
	write := func(name string, size int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a", 10<<10)
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "same")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("sub/b", 5000)
	if err := os.Symlink("/", filepath.Join(dir, "sub", "root")); err != nil {
		t.Fatal(err)
	}
	u, err := Measure(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if u.Inodes != 5 || u.Bytes < 12<<10+8<<10 || u.Bytes > 64<<10 {
		t.Errorf("%+v", u)
	}
	deep(t, dir, maxUsageDepth+10)
	if u, err = Measure(context.Background(), dir); err != nil || u.Inodes < maxUsageDepth {
		t.Errorf("%+v, %v", u, err)
	}
}
