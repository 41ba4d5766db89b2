package imageservice

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/overlay"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// volumeImage has two layers; the upper one implies a directory that the lower
// one describes.
func volumeImage() *imagetest.Image {
	return imagetest.New(
		layerOf(imagetest.Dir(".", 0o750), imagetest.Dir("d", 0o711).Owned(7, 8), imagetest.File("d/a", "lower", 0o644), imagetest.File("gone", "x", 0o644)),
		layerOf(imagetest.File("d/b", "upper", 0o644), imagetest.File(".wh.gone", "", 0o644)),
	)
}

func mustMountImage(t *testing.T, s *Service, container, image string) string {
	t.Helper()
	at, err := s.MountImage(bg, container, image, "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := overlay.Unmount(at); err != nil {
			t.Error(err)
		}
	})
	return at
}

func isMounted(t *testing.T, at string) bool {
	t.Helper()
	mounted, err := overlay.Mounted(at)
	if err != nil {
		t.Fatal(err)
	}
	return mounted
}

func TestMountImage(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	name := push(t, r, "model", "1", volumeImage())
	id := mustPull(t, s, name)
	at := mustMountImage(t, s, "c1", name)
	if got := read(t, at, "d/a") + read(t, at, "d/b"); got != "lowerupper" {
		t.Errorf("content %q", got)
	}
	if _, err := os.Lstat(at + "/gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the upper layer removed: %v", err)
	}
	var root, dir unix.Stat_t
	if err := errors.Join(unix.Stat(at, &root), unix.Stat(at+"/d", &dir)); err != nil {
		t.Fatal(err)
	}
	if root.Mode&0o7777 != 0o750 || dir.Mode&0o7777 != 0o711 || dir.Uid != 7 || dir.Gid != 8 {
		t.Errorf("modes %o %o, owner %d:%d", root.Mode, dir.Mode, dir.Uid, dir.Gid)
	}
	if err := os.WriteFile(at+"/x", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v", err)
	}
	if again := mustMountImage(t, s, "c1", id); again != at {
		t.Errorf("again at %s", again)
	}
	if other := mustMountImage(t, s, "c2", name); other != at {
		t.Errorf("another container's at %s, not at %s", other, at)
	}
	if _, err := s.MountImage(bg, "c1", "no.such/image:1", "", ""); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
	if _, err := s.MountImage(bg, "../c", name, "", ""); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a container with a path as ID: %v", err)
	}
}

// An image that is removed while a container has it mounted stays until the last
// of them goes.
func TestMountedImageOutlivesItsName(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "model", "1", volumeImage()))
	at := mustMountImage(t, s, "c1", id)
	mustMountImage(t, s, "c2", id)
	if err := s.RemoveImage(bg, &runtimeapi.ImageSpec{Image: id}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, at, "d/a"); got != "lower" {
		t.Errorf("content after the image's removal: %q", got)
	}
	if ids, err := s.Rootfs(bg); err != nil || !slices.Equal(ids, []string{"c1", "c2"}) {
		t.Errorf("containers that hold something: %v, %v", ids, err)
	}
	if err := s.RemoveRootfs(bg, "c1"); err != nil {
		t.Fatal(err)
	}
	if !isMounted(t, at) || len(s.store.Layers()) != 2 {
		t.Error("gone with the first of two users")
	}
	for range 2 {
		if err := s.RemoveRootfs(bg, "c2"); err != nil {
			t.Fatal(err)
		}
	}
	if isMounted(t, at) || len(s.store.Layers()) != 0 {
		t.Errorf("left: mounted %v, layers %v", isMounted(t, at), s.store.Layers())
	}
	for _, dir := range []string{filepath.Dir(at), filepath.Dir(s.store.VolumeTop(digestOf(t, id)))} {
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// What a killed daemon has mounted is known to the next one, and unmounted if no
// record tells of a user.
func TestMountedImagesAfterAKill(t *testing.T) {
	base := t.TempDir()
	at := func(o *Options) { o.Root = filepath.Join(base, "root"); o.State = filepath.Join(base, "state") }
	s, r := newService(t, at), newRegistry(t)
	id := mustPull(t, s, push(t, r, "model", "1", volumeImage()))
	other := mustPull(t, s, push(t, r, "other", "1", imagetest.New(layerOf(imagetest.File("f", "other", 0o644)))))
	used, unused := mustMountImage(t, s, "c1", id), mustMountImage(t, s, "c2", other)
	if !strings.HasPrefix(used, base+"/state/") {
		t.Errorf("mounted at %s", used)
	}
	// The kill came after the record was removed.
	if err := s.store.ReleaseVolume(digestOf(t, other), "c2"); err != nil {
		t.Fatal(err)
	}
	s.Close()

	s = newService(t, at)
	if err := s.sweepVolumes(); err != nil {
		t.Fatal(err)
	}
	if !isMounted(t, used) || isMounted(t, unused) {
		t.Errorf("mounted: %v, %v; want true, false", isMounted(t, used), isMounted(t, unused))
	}
	if err := s.RemoveRootfs(bg, "c1"); err != nil {
		t.Fatal(err)
	}
	if isMounted(t, used) {
		t.Error("still mounted")
	}
}

func TestMakeVolumes(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	image := imagetest.New(layerOf(
		imagetest.Dir("data", 0o2770).Owned(1000, 1001), imagetest.File("data/file", "from the image", 0o4755).Owned(5, 6),
		imagetest.Hardlink("data/second", "data/file"), imagetest.Symlink("data/link", "/etc/passwd"),
		imagetest.Dir("data/sub", 0o700), imagetest.File("data/sub/deep", "deep", 0o600).Xattr("user.note", "kept"),
		imagetest.Device("data/fifo", '6', 0, 0), imagetest.Symlink("link", "/data/sub"), imagetest.File("plain", "x", 0o644),
		imagetest.Symlink("escape", "../../../../../../etc"),
	))
	mount(t, s, "c1", mustPull(t, s, push(t, r, "vol", "1", image)))
	dirs, err := s.MakeVolumes(bg, "c1", []string{"/data", "/absent/x", "/link"})
	if err != nil || len(dirs) != 3 {
		t.Fatalf("%v, %v", dirs, err)
	}
	if got := read(t, dirs[0], "file") + read(t, dirs[0], "sub/deep") + read(t, dirs[2], "deep"); got != "from the imagedeepdeep" {
		t.Errorf("content %q", got)
	}
	var dir, file, second, fifo unix.Stat_t
	for name, st := range map[string]*unix.Stat_t{"": &dir, "/file": &file, "/second": &second, "/fifo": &fifo} {
		if err := unix.Lstat(dirs[0]+name, st); err != nil {
			t.Fatal(err)
		}
	}
	if dir.Mode&0o7777 != 0o2770 || dir.Uid != 1000 || dir.Gid != 1001 {
		t.Errorf("volume has mode %o, owner %d:%d", dir.Mode, dir.Uid, dir.Gid)
	}
	if file.Mode&0o7777 != 0o4755 || file.Uid != 5 || file.Ino != second.Ino || file.Nlink != 2 {
		t.Errorf("file has mode %o, owner %d, links %d", file.Mode, file.Uid, file.Nlink)
	}
	if fifo.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("the FIFO is %o", fifo.Mode)
	}
	if target, err := os.Readlink(dirs[0] + "/link"); err != nil || target != "/etc/passwd" {
		t.Errorf("link to %q, %v", target, err)
	}
	note := make([]byte, 16)
	if n, err := unix.Getxattr(dirs[0]+"/sub/deep", "user.note", note); err != nil || string(note[:n]) != "kept" {
		t.Errorf("attribute %q, %v", note, err)
	}
	if list, err := os.ReadDir(dirs[1]); err != nil || len(list) != 0 {
		t.Errorf("a path that the image does not have: %v, %v", list, err)
	}
	if _, err := s.MakeVolumes(bg, "c1", []string{"/plain"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a file: %v", err)
	}
	// The link is followed within the image, which has no /etc.
	if dirs, err = s.MakeVolumes(bg, "c1", []string{"/escape"}); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(dirs[0]); err != nil || len(list) != 0 {
		t.Errorf("a link out of the image: %v, %v", list, err)
	}
}

func TestVolumesAreCountedAndRemoved(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	mount(t, s, "c1", mustPull(t, s, push(t, r, "vol", "1", imagetest.New(layerOf(imagetest.Dir("data", 0o755))))))
	dirs, err := s.MakeVolumes(bg, "c1", []string{"/data"})
	if err != nil {
		t.Fatal(err)
	}
	measure := func() uint64 {
		if err := s.store.MeasureRootfs(bg, "c1"); err != nil {
			t.Fatal(err)
		}
		bytes, _, err := s.RootfsUsage(bg, "c1")
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	before := measure()
	if err := os.WriteFile(dirs[0]+"/big", make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if after := measure(); after < before+1<<20 {
		t.Errorf("%d bytes before, %d after 1 MiB was written", before, after)
	}
	if err := s.RemoveRootfs(bg, "c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dirs[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the volume after its container: %v", err)
	}
}

func digestOf(t *testing.T, id string) digest.Digest {
	t.Helper()
	d, err := digest.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
