package projectquota

import (
	"errors"
	"strings"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What has no project quota says so; what has is tested in the virtual machine
// (cri/integration/quota_test.go).
func TestOpenWithout(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if _, err := Open(dir, IDs{First: 1, Count: 1}); !errors.Is(err, errdefs.ErrNotImplemented) || !strings.Contains(err.Error(), dir) {
		t.Errorf("on tmpfs: %v", err)
	}
	if _, err := Open(dir, IDs{}); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("without IDs: %v", err)
	}
	if _, err := Open(dir+"/none", IDs{First: 1, Count: 1}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("in a directory that is not there: %v", err)
	}
}

// The kernel reads and writes these as they are.
func TestSizes(t *testing.T) {
	if size := unsafe.Sizeof(diskQuota{}); size != 112 {
		t.Errorf("struct fs_disk_quota has %d bytes", size)
	}
	if size := unsafe.Sizeof(fsxattr{}); size != 28 {
		t.Errorf("struct fsxattr has %d bytes", size)
	}
}
