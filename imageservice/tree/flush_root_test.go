package tree

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// One fsync is enough where the journal is committed in order, and only there.
func TestInOrder(t *testing.T) {
	for _, c := range []struct {
		name string
		dir  string
		want bool
	}{
		{"ext4", imagetest.Mounted(t, "mkfs.ext4", "-q"), true},
		{"ext4 without a journal", imagetest.Mounted(t, "mkfs.ext4", "-q", "-O", "^has_journal"), false},
		{"xfs", imagetest.Mounted(t, "mkfs.xfs", "-q"), true},
		{"tmpfs", memory(t), false},
	} {
		f, err := NewFlusher(c.dir, false)
		if err != nil {
			t.Fatal(err)
		}
		if f.inOrder != c.want {
			t.Errorf("%s: %v", c.name, f.inOrder)
		}
	}
}

// What is taken is closed, a window later or at the end.
func TestFlusherCloses(t *testing.T) {
	dir := memory(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, flushWindow, 2*flushWindow + 1} {
		f, err := NewFlusher(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		var fds []int
		for range n {
			fd, err := unix.Open(filepath.Join(dir, "file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				err = f.File(fd)
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(fds, fd) {
				fds = append(fds, fd)
			}
		}
		if len(fds) > flushWindow+1 {
			t.Errorf("%d descriptors are held", len(fds))
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		for _, fd := range fds {
			if target, err := os.Readlink(fmt.Sprint("/proc/self/fd/", fd)); err == nil && target == filepath.Join(dir, "file") {
				t.Errorf("of %d files, %d is open", n, fd)
			}
		}
	}
}
