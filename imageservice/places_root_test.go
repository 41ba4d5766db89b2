package imageservice

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// newFS mounts a file system of its own for the test.
func newFS(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestSeparateFileSystems(t *testing.T) {
	images, writable, state := newFS(t), newFS(t), t.TempDir()
	s, r := newService(t, func(o *Options) { o.ImagesDir, o.WritableDir, o.State = images, writable, state }), newRegistry(t)
	i, _, _ := twoLayers()
	id := mustPull(t, s, push(t, r, "app", "1", i))
	root := mount(t, s, "c", id)
	write(t, filepath.Join(root, "written"), 300_000)
	if got := read(t, root, "other"); got != "other" {
		t.Errorf("%q", got)
	}
	if err := s.store.MeasureRootfs(bg, "c"); err != nil {
		t.Error(err)
	}
	info, err := s.ImageFsInfo(bg)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		got   *runtimeapi.FilesystemUsage
		dir   string
		least uint64
	}{
		"images":     {info.ImageFilesystems[0], images, 4096},
		"containers": {info.ContainerFilesystems[0], writable, 300_000},
	} {
		if c.got.FsId.Mountpoint != c.dir || c.got.UsedBytes.Value < c.least {
			t.Errorf("%s: %v", name, c.got)
		}
	}
	if _, err := s.store.Sync(bg); err != nil { // which counts what was estimated
		t.Fatal(err)
	}
	usage, err := s.DiskUsage(bg, map[string]bool{"places.json": true, "berth-storage": true})
	if err != nil {
		t.Fatal(err)
	}
	var total uint64
	for _, item := range usage.Items {
		total += item.Bytes
		if item.Kind == DiskOrphan {
			t.Errorf("%+v", item)
		}
	}
	if want := du(t, images) + du(t, writable) + du(t, s.opts.Root); total < want*99/100 || total > want*101/100 {
		t.Errorf("explains %d of %d bytes", total, want)
	}
	removeAll(t, s, "c", id)
	for _, dir := range []string{filepath.Join(writable, "rootfs"), filepath.Join(writable, "ingest"), filepath.Join(images, "layers"), filepath.Join(images, "ingest")} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
}

// Another setting on a node that has images or containers is refused, with what to do.
func TestPlacesChange(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	at := func(name string) string { return filepath.Join(base, name) }
	open := func(images, writable string) (*Service, error) {
		s, err := New(Options{Root: at("root"), State: at("state"), ImagesDir: images, WritableDir: writable})
		if err == nil {
			t.Cleanup(s.Close)
		}
		return s, err
	}
	refused := func(images, writable string, texts ...string) {
		t.Helper()
		_, err := open(images, writable)
		if !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("%v", err)
			return
		}
		for _, text := range texts {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%v does not tell %q", err, text)
			}
		}
	}
	opened := func(images, writable string) *Service {
		t.Helper()
		s, err := open(images, writable)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	r := newRegistry(t)
	i, _, _ := twoLayers()
	name := push(t, r, "app", "1", i)
	s := opened("", "")
	id := mustPull(t, s, name)
	mount(t, s, "c", id)
	refused(at("images"), "", "images", at("root"), at("images"))
	refused("", at("writable"), "writable layers", at("root"))
	removeAll(t, s, "c", id)
	s = opened(at("images"), at("writable"))
	mustPull(t, s, name)
	refused("", "", at("images"))
	opened(at("images"), at("elsewhere"))
	// The file system is not mounted: what is there is an empty directory.
	if err := errors.Join(os.Rename(at("images"), at("away")), os.Mkdir(at("images"), 0o700)); err != nil {
		t.Fatal(err)
	}
	refused(at("images"), at("elsewhere"), "is its file system mounted?")
	if err := errors.Join(os.Remove(at("images")), os.Rename(at("away"), at("images"))); err != nil {
		t.Fatal(err)
	}
	s = opened(at("images"), at("elsewhere"))
	if status(t, s, name) == nil {
		t.Error("the image is gone")
	}
	// What was moved is taken up where it is.
	if err := os.Rename(at("images"), at("moved")); err != nil {
		t.Fatal(err)
	}
	if s = opened(at("moved"), at("elsewhere")); status(t, s, name) == nil {
		t.Error("the image is gone")
	}
	// A copy is the same store, but an empty directory is not the copy of one.
	if err := os.CopyFS(at("copy"), os.DirFS(at("moved"))); err != nil {
		t.Fatal(err)
	}
	if s = opened(at("copy"), at("elsewhere")); status(t, s, name) == nil {
		t.Error("the image is gone")
	}
	refused(at("empty"), at("elsewhere"), at("copy"))
	if _, err := New(Options{Root: at("root2"), State: at("state2"), ImagesDir: at("moved")}); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "another root") {
		t.Errorf("%v", err)
	}
}

// A root directory is the same store wherever it was moved or copied to, with what was
// configured to be below it.
func TestRootMoves(t *testing.T) {
	needRoot(t)
	for what, images := range map[string]string{"the root directory": "", "below it": "images"} {
		t.Run(what, func(t *testing.T) {
			base := t.TempDir()
			opened := func(root string) *Service {
				t.Helper()
				o := Options{Root: filepath.Join(base, root), State: filepath.Join(base, "state")}
				if images != "" {
					o.ImagesDir = filepath.Join(o.Root, images)
				}
				s, err := New(o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.Close)
				return s
			}
			i, _, _ := twoLayers()
			name := push(t, newRegistry(t), "app", "1", i)
			mustPull(t, opened("first"), name)
			if out, err := exec.Command("cp", "-a", filepath.Join(base, "first"), filepath.Join(base, "copy")).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if status(t, opened("copy"), name) == nil {
				t.Error("the image is not in the copy")
			}
			if err := os.Rename(filepath.Join(base, "first"), filepath.Join(base, "moved")); err != nil {
				t.Fatal(err)
			}
			if status(t, opened("moved"), name) == nil {
				t.Error("the image did not move along")
			}
		})
	}
}
