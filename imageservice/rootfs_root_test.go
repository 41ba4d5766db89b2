package imageservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/overlay"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var bg = context.Background()

func layerOf(entries ...imagetest.Entry) imagetest.Layer {
	return imagetest.NewLayer(imagetest.Tar(entries...), imagetest.Gzip)
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		return "error: " + err.Error()
	}
	return string(b)
}

func TestLayersStack(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	base := layerOf(imagetest.Dir(".", 0o755), imagetest.Dir("d", 0o755), imagetest.File("d/a", "base", 0o644), imagetest.File("d/b", "base", 0o644),
		imagetest.Dir("o", 0o755), imagetest.File("o/old", "base", 0o644), imagetest.File("f", "base", 0o644))
	upper := layerOf(imagetest.File("d/.wh.a", "", 0o644), imagetest.File("d/b", "upper", 0o644),
		imagetest.Dir("o", 0o755), imagetest.File("o/.wh..wh..opq", "", 0o644), imagetest.File("o/new", "upper", 0o644), imagetest.File(".wh.f", "", 0o644))
	again := layerOf(imagetest.File("f", "again", 0o644))
	id := mustPull(t, s, push(t, r, "stack", "1", imagetest.New(base, upper, again, upper, again)))
	root := mount(t, s, "c1", id)
	for name, want := range map[string]string{"d/b": "upper", "o/new": "upper", "f": "again"} {
		if got := read(t, root, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"d/a", "o/old"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A layer that has a file in a directory which only a layer below describes must
// not change that directory.
func TestImpliedDirectoriesKeepAttributes(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	base := layerOf(imagetest.Dir(".", 0o751).Owned(11, 12), imagetest.Dir("tmp", 0o1777), imagetest.Dir("home", 0o755),
		imagetest.Dir("home/app", 0o700).Owned(1000, 1000), imagetest.Dir("home/app/sub", 0o770).Owned(1000, 1001), imagetest.Dir("gone", 0o700).Owned(5, 5))
	middle := layerOf(imagetest.File("tmp/x", "1", 0o644), imagetest.File("home/app/sub/y", "2", 0o644), imagetest.File(".wh.gone", "", 0o644))
	top := layerOf(imagetest.File("home/app/z", "3", 0o644), imagetest.File("gone/new", "4", 0o644), imagetest.File("own/new", "5", 0o644))
	id := mustPull(t, s, push(t, r, "implied", "1", imagetest.New(base, middle, top)))
	root := mount(t, s, "c1", id)
	for name, want := range map[string]string{
		".": "751 11:12", "tmp": "1777 0:0", "home": "755 0:0", "home/app": "700 1000:1000", "home/app/sub": "770 1000:1001",
		"gone": "755 0:0", "own": "755 0:0",
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for _, name := range []string{"tmp/x", "home/app/sub/y", "home/app/z", "gone/new", "own/new"} {
		if got := read(t, root, name); len(got) != 1 {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestOpaqueRoot(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	base := layerOf(imagetest.Dir(".", 0o700), imagetest.File("hidden", "1", 0o644), imagetest.Dir("d", 0o700))
	top := layerOf(imagetest.File(".wh..wh..opq", "", 0o644), imagetest.File("d/shown", "2", 0o644))
	root := mount(t, s, "c1", mustPull(t, s, push(t, r, "opaque", "1", imagetest.New(base, top, layerOf(imagetest.File("more", "3", 0o644))))))
	list, err := os.ReadDir(root)
	if err != nil || len(list) != 2 || read(t, root, "d/shown") != "2" {
		t.Errorf("%v, %v", list, err)
	}
	if st, err := os.Stat(filepath.Join(root, "d")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("d has the mode of the hidden one: %v, %v", st.Mode(), err)
	}
}

func TestManyLayersImage(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	var layers []imagetest.Layer
	for i := range 128 {
		layers = append(layers, layerOf(imagetest.File(fmt.Sprint("f", i), fmt.Sprint(i), 0o644), imagetest.File("last", fmt.Sprint(i), 0o644)))
	}
	root := mount(t, s, "c1", mustPull(t, s, push(t, r, "many", "1", imagetest.New(layers...))))
	if a, b := read(t, root, "f0"), read(t, root, "last"); a != "0" || b != "127" {
		t.Errorf("%q, %q", a, b)
	}
}

func TestNoLayers(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "scratch", "1", imagetest.New()))
	root := mount(t, s, "c1", id)
	if list, err := os.ReadDir(root); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if err := os.WriteFile(filepath.Join(root, "f"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if img := status(t, s, id); img.Size == 0 {
		t.Error("size 0")
	}
}

func TestRootfsLife(t *testing.T) {
	s, r := newService(t, func(o *Options) { o.UsageInterval = 10 * time.Millisecond }), newRegistry(t)
	id := mustPull(t, s, push(t, r, "life", "1", small("x")))
	root := mount(t, s, "c1", id)
	if err := os.WriteFile(filepath.Join(root, "written"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.MountRootfs(bg, "c1", id, root, "", ""); err != nil {
		t.Fatal(err)
	}
	if n := mountsAt(t, root); n != 1 {
		t.Errorf("%d mounts after the second call", n)
	}
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	waitFor(t, "the measurement of the writable layer", func() bool {
		bytes, inodes, err := s.RootfsUsage(bg, "c1")
		return err == nil && bytes >= 1<<20 && inodes == 2
	})
	cancel()
	<-done
	for range 2 {
		if err := s.UnmountRootfs(bg, "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if n := mountsAt(t, root); n != 0 {
		t.Errorf("%d mounts after unmounting", n)
	}
	// What was written is kept, also at another mountpoint.
	other := filepath.Join(t.TempDir(), "other")
	t.Cleanup(func() { _ = overlay.Unmount(other) })
	if err := s.MountRootfs(bg, "c1", id, other, "", ""); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(other, "written")); err != nil || st.Size() != 1<<20 {
		t.Errorf("%v, %v", st, err)
	}
	if ids, err := s.Rootfs(bg); err != nil || !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("%q, %v", ids, err)
	}
	for range 2 {
		if err := s.RemoveRootfs(bg, "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if n := mountsAt(t, other); n != 0 {
		t.Errorf("%d mounts after removal", n)
	}
	if _, _, err := s.RootfsUsage(bg, "c1"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
}

// waitFor gives something that happens in the background a bounded time.
func waitFor(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for range 12_000 {
		if happened() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

func mountsAt(t *testing.T, path string) int {
	t.Helper()
	return strings.Count(read(t, "/proc/self/mounts"), " "+path+" ")
}

func TestRootfsRefuses(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "x", "1", small("x")))
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		container, image, target string
		kind                     error
	}{
		"image unknown":       {"c", "absent", t.TempDir(), errdefs.ErrNotFound},
		"relative mountpoint": {"c", id, "relative", errdefs.ErrInvalidArgument},
		"container escapes":   {"../c", id, t.TempDir(), errdefs.ErrInvalidArgument},
		"mountpoint is file":  {"c", id, file, nil},
	} {
		err := s.MountRootfs(bg, c.container, c.image, c.target, "", "")
		if err == nil || c.kind != nil && !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
		if ids, _ := s.Rootfs(bg); len(ids) != 0 {
			t.Errorf("%s left %q", name, ids)
		}
	}
	for _, id := range []string{"never", "../x", ""} {
		if err := errors.Join(s.UnmountRootfs(bg, id), s.RemoveRootfs(bg, id)); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// A daemon that is killed and started again finds what it had.
func TestRestartWithMountedRootfs(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "x", "1", small("x")))
	root := mount(t, s, "c1", id)
	again, err := New(s.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.MountRootfs(bg, "c1", id, root, "", ""); err != nil || mountsAt(t, root) != 1 {
		t.Errorf("%d mounts, %v", mountsAt(t, root), err)
	}
	if err := again.RemoveRootfs(bg, "c1"); err != nil || mountsAt(t, root) != 0 {
		t.Errorf("%d mounts, %v", mountsAt(t, root), err)
	}
	if err := again.RemoveImage(bg, &runtimeapi.ImageSpec{Image: id}); err != nil {
		t.Fatal(err)
	}
	expectEmpty(t, again)
}

// No user of the host may get at set-user-ID files of images, whatever the umask
// is when the daemon starts.
func TestModesUnderAnyUmask(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "x", "1", imagetest.New(layerOf(imagetest.File("su", "x", 0o4755)))))
	target := mount(t, s, "c1", id)
	for _, dir := range []string{"", "layers", "images", "rootfs", "ingest", "rootfs/c1"} {
		st, err := os.Stat(filepath.Join(s.store.Root(), dir))
		if err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%q has mode %v, %v", dir, st.Mode(), err)
		}
	}
	if st, err := os.Stat(filepath.Dir(target)); err != nil || st.Mode().Perm()&0o066 != 0 {
		t.Errorf("mountpoint's parent has mode %v, %v", st.Mode(), err)
	}
	unix.Umask(0o077)
	id = mustPull(t, s, push(t, r, "y", "1", imagetest.New(layerOf(imagetest.File("d/f", "x", 0o666)))))
	target = mount(t, s, "c2", id)
	for name, want := range map[string]os.FileMode{".": 0o755, "d": 0o755, "d/f": 0o666} {
		if st, err := os.Stat(filepath.Join(target, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v", name, st.Mode(), err)
		}
	}
}
