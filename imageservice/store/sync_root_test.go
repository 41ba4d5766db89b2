package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// disk is an ext4 file system in a file, whose power can be cut.
type disk struct{ image, dir string }

func newDisk(t *testing.T) disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	base := t.TempDir()
	d := disk{image: filepath.Join(base, "disk"), dir: filepath.Join(base, "mnt")}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 128<<20); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image)
	d.mount(t)
	return d
}

func (d disk) mount(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "-o", "loop", d.image, d.dir)
	t.Cleanup(func() {
		if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", d.dir, err)
		}
	})
}

// cutPower is the disk as it would be found after a power loss now: what the kernel
// has not written to the device is not there.
func (d disk) cutPower(t *testing.T) disk {
	t.Helper()
	base := t.TempDir()
	after := disk{image: filepath.Join(base, "disk"), dir: filepath.Join(base, "mnt")}
	command(t, "cp", "--sparse=always", d.image, after.image)
	after.mount(t)
	return after
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// addTree adds an image with one layer of files, directories, links and a whiteout.
func addTree(t *testing.T, s *Store, name string) digest.Digest {
	t.Helper()
	in, err := s.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	root := in.Diff.Name()
	for i := range 200 {
		dir := filepath.Join(root, fmt.Sprintf("d%d", i%7), "deeper")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fileContent(name, i), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("d1", filepath.Join(root, "link")), unix.Mknod(filepath.Join(root, "gone"), unix.S_IFCHR, 0)); err != nil {
		t.Fatal(err)
	}
	lease := s.Lease()
	id := digest.FromString(name)
	if err := in.Commit(Layer{DiffID: id, Blob: id, Size: 1}, lease); err != nil {
		t.Fatal(err)
	}
	config := fmt.Appendf(nil, `{"os":"linux","comment":%q}`, name)
	image := digest.FromBytes(config)
	if err := s.PutImage(Image{ID: image, Layers: []digest.Digest{id}}, []string{name}, config, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := lease.Release(); err != nil {
		t.Fatal(err)
	}
	return id
}

func fileContent(name string, i int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%s %d\n", name, i), 1+i*i/10)
}

func expectTree(t *testing.T, s *Store, name string, id digest.Digest) {
	t.Helper()
	if _, err := s.ByName(name); err != nil {
		t.Error(err)
	}
	root := s.Diff(id)
	for i := range 200 {
		got, err := os.ReadFile(filepath.Join(root, fmt.Sprintf("d%d", i%7), "deeper", fmt.Sprint(i)))
		if err != nil || !bytes.Equal(got, fileContent(name, i)) {
			t.Fatalf("file %d of %s: %d bytes, %v", i, name, len(got), err)
		}
	}
	if target, err := os.Readlink(filepath.Join(root, "link")); err != nil || target != "d1" {
		t.Error(target, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(root, "gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		t.Error(st.Mode, err)
	}
}

// What Sync has marked is whole after a power loss, and what it has not is not taken.
func TestSyncSurvivesAPowerCut(t *testing.T) {
	d := newDisk(t)
	s := mustOpen(t, filepath.Join(d.dir, "store"), boot1)
	// The makings of the store and of an earlier image are there before.
	addTree(t, s, "first")
	if n, err := s.Sync(context.Background()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	second := addTree(t, s, "second")
	before := d.cutPower(t)
	if n, err := s.Sync(context.Background()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	after := d.cutPower(t)

	s = mustOpen(t, filepath.Join(before.dir, "store"), boot2)
	if _, err := s.ByName("second"); err == nil {
		t.Error("an image was taken that was not on the disk")
	}
	expectTree(t, s, "first", digest.FromString("first"))
	s = mustOpen(t, filepath.Join(after.dir, "store"), boot2)
	expectTree(t, s, "first", digest.FromString("first"))
	expectTree(t, s, "second", second)
	if n, err := s.Sync(context.Background()); err != nil || n != 0 {
		t.Errorf("%d layers to sync after the power loss, %v", n, err)
	}
}

// An image that comes while others are synced has its mark after the next time.
func TestSyncMarksAnImageThatCameMeanwhile(t *testing.T) {
	s := mustOpen(t, t.TempDir(), boot1)
	addTree(t, s, "late")
	// The end of a Sync that began before.
	if err := s.syncImages(context.Background()); err != nil {
		t.Fatal(err)
	}
	img, err := s.ByName("late")
	if err != nil {
		t.Fatal(err)
	}
	if s.wasWhole(img.ID) {
		t.Error("the image is marked before its layer")
	}
	for range 2 {
		if _, err := s.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		if !s.wasWhole(img.ID) || len(s.unsyncedImages) > 0 {
			t.Errorf("the image is not marked with its layer; to sync are %v", s.unsyncedImages)
		}
	}
}

// What others have written is not waited for. The kernel may write it at any time by
// itself, so one time is enough.
func TestSyncLeavesOthersAlone(t *testing.T) {
	d := newDisk(t)
	s := mustOpen(t, filepath.Join(d.dir, "store"), boot1)
	for try := range 10 {
		other := filepath.Join(d.dir, fmt.Sprintf("other%d", try))
		if err := os.WriteFile(other, make([]byte, 8<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		addTree(t, s, fmt.Sprintf("tree%d", try))
		if n, err := s.Sync(context.Background()); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if hasNoPlace(t, other) {
			return
		}
	}
	t.Error("Sync has written another program's file")
}

// hasNoPlace tells whether the first extent of a file has no place on the disk yet,
// as it is only in memory.
func hasNoPlace(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const delayed = 4 // FIEMAP_EXTENT_DELALLOC
	var request struct {
		start, length, flags uint64 // flags and mapped extents, 32 bits each
		extents, reserved    uint32
		extent               struct {
			logical, physical, length uint64
			reserved                  [2]uint64
			flags                     uint32
			more                      [3]uint32
		}
	}
	request.length, request.extents = 1<<62, 1
	const getExtents = 0xc020660b // FS_IOC_FIEMAP
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getExtents, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatal(errno)
	}
	return request.extent.flags&delayed != 0
}
