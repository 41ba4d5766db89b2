package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// format is a kind of file system that a store may be on.
type format struct {
	mkfs    []string
	options string
	fsck    []string // for one that does not repair itself when it is mounted
}

// Nothing is laid out or committed later by itself, so that what is there after a power
// cut was synced.
var (
	mkext4  = []string{"mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"}
	ext4    = format{mkfs: mkext4, options: ",commit=300"}
	formats = map[string]format{
		"ext4":                   ext4,
		"ext4, data unordered":   {mkfs: mkext4, options: ",commit=300,data=writeback,nodioread_nolock"},
		"ext4, data in journal":  {mkfs: mkext4, options: ",commit=300,data=journal"},
		"ext4, data in inodes":   {mkfs: slices.Concat(mkext4, []string{"-I", "512", "-O", "inline_data"}), options: ",commit=300"},
		"ext4, fast commits":     {mkfs: slices.Concat(mkext4, []string{"-O", "fast_commit"}), options: ",commit=300"},
		"ext4 without a journal": {mkfs: slices.Concat(mkext4, []string{"-O", "^has_journal"}), fsck: []string{"e2fsck", "-fy"}},
		"xfs":                    {mkfs: []string{"mkfs.xfs", "-q"}, options: ",nouuid"}, // beside its copy
	}
)

// disk is a file system in a file, whose power can be cut.
type disk struct {
	format
	image, dir string
}

func newDisk(t testing.TB, kind format) disk {
	t.Helper()
	return newDiskIn(t, kind, t.TempDir(), 512<<20)
}

func newDiskIn(t testing.TB, kind format, base string, size int64) disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	d := disk{format: kind, image: filepath.Join(base, "disk"), dir: filepath.Join(t.TempDir(), "mnt")}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, size)); err != nil {
		t.Fatal(err)
	}
	command(t, kind.mkfs, d.image)
	d.mount(t)
	return d
}

func (d disk) mount(t testing.TB) {
	t.Helper()
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, []string{"mount", "-o", "loop" + d.options}, d.image, d.dir)
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
	after := disk{format: d.format, image: filepath.Join(base, "disk"), dir: filepath.Join(base, "mnt")}
	command(t, []string{"cp", "--sparse=always"}, d.image, after.image)
	if d.fsck != nil {
		out, err := exec.Command(d.fsck[0], append(d.fsck[1:], after.image)...).CombinedOutput()
		t.Logf("%q: %v: %s", d.fsck, err, out)
	}
	after.mount(t)
	return after
}

func command(t testing.TB, argv []string, more ...string) {
	t.Helper()
	argv = slices.Concat(argv, more)
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
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
	odd(t, root)
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

// odd makes what differs from a file with a content in its place.
func odd(t *testing.T, root string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, name) }
	deep := strings.Repeat("deep/", 100)
	err := errors.Join(
		os.Symlink("d1", at("link")), unix.Mknod(at("gone"), unix.S_IFCHR, 0),
		os.MkdirAll(at(deep), 0o755), os.WriteFile(at(deep+"est"), []byte("deepest"), 0o600),
		os.WriteFile(at("empty"), nil, 0o600), os.Mkdir(at("void"), 0o700),
		os.Link(at("d1/deeper/197"), at("same")), os.Lchown(at("d1/deeper/1"), 1000, 2000), os.Chmod(at("d1/deeper/1"), 0o4755),
		unix.Setxattr(at("d1/deeper/8"), "user.small", []byte("1"), 0), unix.Setxattr(at("d2"), "user.large", bytes.Repeat([]byte("x"), 3000), 0))
	for _, name := range []string{"holes", "shorter"} {
		f, openErr := os.Create(at(name))
		if openErr != nil {
			t.Fatal(openErr)
		}
		for _, offset := range []int64{3, 1 << 20, 5<<20 + 7} {
			_, writeErr := f.WriteAt([]byte(name), offset)
			err = errors.Join(err, writeErr)
		}
		err = errors.Join(err, f.Close())
	}
	if err := errors.Join(err, os.Truncate(at("shorter"), 1<<20+2), os.Truncate(at("holes"), 6<<20)); err != nil {
		t.Fatal(err)
	}
}

func fileContent(name string, i int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%s %d\n", name, i), 1+i*i/10)
}

// expectTree compares all of a tree with its inventory, and the files' content with what
// was written.
func expectTree(t *testing.T, s *Store, name string, id digest.Digest) {
	t.Helper()
	if _, err := s.ByName(name); err != nil {
		t.Error(err)
	}
	for i := range 200 {
		got, err := os.ReadFile(filepath.Join(s.Diff(id), fmt.Sprintf("d%d", i%7), "deeper", fmt.Sprint(i)))
		if err != nil || !bytes.Equal(got, fileContent(name, i)) {
			t.Fatalf("file %d of %s: %d bytes, %v", i, name, len(got), err)
		}
	}
	if report, err := s.CheckLayer(context.Background(), id); err != nil || !report.Same() {
		t.Errorf("%s: %v, %v", name, report.Differences, err)
	}
}

// What Sync has marked is whole after a power loss, and what it has not is not taken.
func TestSyncSurvivesAPowerCut(t *testing.T) {
	for name, kind := range formats {
		t.Run(name, func(t *testing.T) { testPowerCut(t, newDisk(t, kind)) })
	}
}

func testPowerCut(t *testing.T, d disk) {
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

// A layer whose data the device did not take is not marked, and not tried again.
func TestSyncTellsOfALostWrite(t *testing.T) {
	for _, name := range []string{"ext4", "ext4 without a journal"} {
		t.Run(name, func(t *testing.T) {
			// The device has room for what mkfs writes and little more.
			thin := t.TempDir()
			if err := unix.Mount("tmpfs", thin, "tmpfs", 0, "size=24m"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(thin, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			d := newDiskIn(t, formats[name], thin, 128<<20)
			s := mustOpen(t, filepath.Join(d.dir, "store"), boot1)
			in, err := s.Ingest()
			if err != nil {
				t.Fatal(err)
			}
			content := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
			for i := range 1024 {
				if err := os.WriteFile(filepath.Join(in.Diff.Name(), fmt.Sprint(i)), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			lease := s.Lease()
			id := digest.FromString("lost")
			if err := in.Commit(Layer{DiffID: id, Blob: id, Size: 1}, lease); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Sync(context.Background()); n != 0 || !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%d layers are on the disk, %v", n, err)
			}
			if _, err := os.Lstat(s.path(layersDir, id.Encoded(), syncedFile)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the mark: %v", err)
			}
			if n, err := s.Sync(context.Background()); n != 0 {
				t.Errorf("the second time, %d layers are on the disk, %v", n, err)
			}
		})
	}
}

// BenchmarkSync brings a layer of 40,000 small files to the disk; CPU is that of the process.
func BenchmarkSync(b *testing.B) {
	d := newDiskIn(b, ext4, b.TempDir(), 2<<30)
	s, err := open(filepath.Join(d.dir, "store"), boot1, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<10)
	var cpu time.Duration
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		in, err := s.Ingest()
		if err != nil {
			b.Fatal(err)
		}
		for i := range 40_000 {
			dir := filepath.Join(in.Diff.Name(), fmt.Sprint(i/50))
			if i%50 == 0 {
				err = os.Mkdir(dir, 0o755)
			}
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), content[:200+i%50*200], 0o644)); err != nil {
				b.Fatal(err)
			}
		}
		lease := s.Lease()
		id := digest.FromString(fmt.Sprint(n))
		if err := in.Commit(Layer{DiffID: id, Blob: id, Size: 1}, lease); err != nil {
			b.Fatal(err)
		}
		before := cpuTime(b)
		b.StartTimer()
		if n, err := s.Sync(context.Background()); err != nil || n != 1 {
			b.Fatal(n, err)
		}
		b.StopTimer()
		cpu += cpuTime(b) - before
		if err := errors.Join(lease.Release(), s.Sweep()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What others have written is not waited for. The kernel may write it at any time by
// itself, so one time is enough.
func TestSyncLeavesOthersAlone(t *testing.T) {
	d := newDisk(t, ext4)
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
