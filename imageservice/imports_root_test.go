package imageservice

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// folder is a watched folder, with a clock of its own.
type folder struct {
	t    *testing.T
	s    *Service
	dir  string
	root string
	now  time.Time
}

func watch(t *testing.T) *folder {
	dir := t.TempDir()
	f := &folder{t: t, dir: dir, now: time.Now()}
	f.s = newService(t, func(o *Options) { o.ImportDirs, f.root = []string{dir}, o.Root })
	return f
}

// reopen is another process, which watches dirs.
func (f *folder) reopen(dirs ...string) {
	f.t.Helper()
	f.s.Close()
	f.s = newService(f.t, func(o *Options) { o.ImportDirs, o.Root = dirs, f.root })
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

func (f *folder) put(name string, raw []byte) {
	f.t.Helper()
	if err := errors.Join(os.WriteFile(f.path(".tmp"), raw, 0o644), os.Rename(f.path(".tmp"), f.path(name))); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) remove(name string) {
	f.t.Helper()
	if err := os.Remove(f.path(name)); err != nil {
		f.t.Fatal(err)
	}
}

// scan looks at the folder, after what is there has settled.
func (f *folder) scan() {
	for range 2 {
		f.now = f.now.Add(importSettle)
		f.s.imports.scan(context.Background(), f.now)
	}
}

// want compares the states of the files.
func (f *folder) want(states map[string]ImportState) {
	f.t.Helper()
	list := f.s.Imports()
	if len(list) != len(states) {
		f.t.Errorf("files %+v, want %v", list, states)
	}
	for _, i := range list {
		if i.State != states[filepath.Base(i.Path)] || (i.Err != nil) != (i.State == ImportFailed) {
			f.t.Errorf("%+v, want %s", i, states[filepath.Base(i.Path)])
		}
	}
}

// wantPinned compares the images that are pinned.
func (f *folder) wantPinned(images ...*imagetest.Image) {
	f.t.Helper()
	list, err := f.s.ListImages(context.Background(), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	var got, want []string
	for _, i := range list {
		if i.Pinned {
			got = append(got, i.Id)
		}
	}
	for _, i := range images {
		want = append(want, i.ID())
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		f.t.Errorf("pinned %q, want %q", got, want)
	}
}

func archiveOf(images map[string]*imagetest.Image) []byte { return layout(images).tar() }

func TestImportedImagesArePinnedWhileTheirFileIsThere(t *testing.T) {
	f := watch(t)
	a, b, c := imagetest.New(someLayer("a")), imagetest.New(someLayer("b")), imagetest.New(someLayer("c"))
	f.put("two.tar", archiveOf(map[string]*imagetest.Image{"r.example/a:1": a, "r.example/b:1": b}))
	f.put("docker.tar", docker("r.example/c:1", c).tar())
	f.s.imports.scan(context.Background(), f.now)
	f.want(map[string]ImportState{"two.tar": ImportWaiting, "docker.tar": ImportWaiting})
	f.scan()
	both := map[string]ImportState{"two.tar": ImportImported, "docker.tar": ImportImported}
	f.want(both)
	f.wantPinned(a, b, c)

	// The next process reads nothing again.
	f.reopen(f.dir)
	f.wantPinned(a, b, c)
	f.s.imports.scan(context.Background(), f.now)
	f.want(both)
	if n := f.s.Counters().Layers; n != 0 {
		t.Errorf("%d layers were unpacked again", n)
	}
	// What is removed comes back, like all that a kill kept from being imported.
	if err := f.s.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: b.ID()}); err != nil {
		t.Fatal(err)
	}
	f.scan()
	f.wantPinned(a, b, c)

	f.remove("two.tar")
	f.scan()
	f.want(map[string]ImportState{"docker.tar": ImportImported})
	f.wantPinned(c)
	if _, err := f.s.lookup("r.example/a:1"); err != nil {
		t.Errorf("what is not pinned any more is gone: %v", err)
	}
	f.reopen() // without the folder
	f.s.imports.run(context.Background())
	f.wantPinned()
}

func TestImportOfOtherContent(t *testing.T) {
	f := watch(t)
	a, b := imagetest.New(someLayer("a")), imagetest.New(someLayer("b"))
	f.put("x.tar", archiveOf(map[string]*imagetest.Image{"r.example/x:1": a}))
	f.scan()
	f.wantPinned(a)
	raw := archiveOf(map[string]*imagetest.Image{"r.example/x:1": b})
	f.put("x.tar", raw[:len(raw)/2])
	f.scan()
	f.want(map[string]ImportState{"x.tar": ImportFailed})
	f.wantPinned(a) // it is not given up for what is no image
	f.put("x.tar", raw)
	f.s.imports.scan(context.Background(), f.now)
	f.wantPinned(a)
	f.scan()
	f.wantPinned(b)
	if img, err := f.s.lookup("r.example/x:1"); err != nil || img.ID.String() != b.ID() {
		t.Errorf("%v, %v", img, err)
	}
}

func TestBadFilesAreImportedOnce(t *testing.T) {
	f := watch(t)
	good := archiveOf(map[string]*imagetest.Image{"r.example/x:1": imagetest.New(someLayer("a"))})
	f.put("cut.tar", good[:len(good)-3000])
	f.put("text", []byte("not an archive"))
	f.put("empty", nil)
	f.put("hostile.tar", archiveOf(map[string]*imagetest.Image{"r.example/h:1": imagetest.New(imagetest.NewLayer(imagetest.Tar(imagetest.Symlink("a", "/etc"), imagetest.File("a/b", "x", 0o644), imagetest.File("../../up", "x", 0o644)), imagetest.Gzip))}))
	f.put(".hidden", []byte("not looked at"))
	if err := errors.Join(os.Symlink("/etc/passwd", f.path("link")), unix.Mkfifo(f.path("pipe"), 0o600), os.Mkdir(f.path("folder"), 0o755)); err != nil {
		t.Fatal(err)
	}
	f.scan()
	failed := map[string]ImportState{"cut.tar": ImportFailed, "text": ImportFailed, "empty": ImportFailed, "hostile.tar": ImportFailed, "link": ImportFailed, "pipe": ImportFailed}
	f.want(failed)
	f.wantPinned()
	wantNothing(t, f.s)
	// None is read again, however long it stays.
	for _, i := range f.s.Imports() {
		if f.s.imports.files[i.Path].again != (time.Time{}) {
			t.Errorf("%s is tried again after: %v", i.Path, i.Err)
		}
	}
	f.now = f.now.Add(24 * time.Hour)
	if ready := f.s.imports.look(f.now); len(ready) != 0 {
		t.Errorf("imported again: %q", ready)
	}
	f.put("text", good)
	f.scan()
	failed["text"] = ImportImported
	f.want(failed)
}

// A full disk passes, and a file that grows is read when it has grown.
func TestImportIsTriedAgain(t *testing.T) {
	f := watch(t)
	a := imagetest.New(someLayer("a"))
	f.put("x.tar", archiveOf(map[string]*imagetest.Image{"r.example/x:1": a}))
	if ready := f.s.imports.look(f.now); len(ready) != 0 {
		t.Errorf("read at once: %q", ready)
	}
	f.now = f.now.Add(importSettle)
	for _, wait := range []time.Duration{importBackoff, 2 * importBackoff} {
		if ready := f.s.imports.look(f.now); !slices.Equal(ready, []string{f.path("x.tar")}) {
			t.Fatalf("not read: %q", ready)
		}
		f.s.imports.settle(f.path("x.tar"), errdefs.ErrResourceExhausted, f.now)
		if ready := f.s.imports.look(f.now.Add(wait - 1)); len(ready) != 0 {
			t.Errorf("read too early: %q", ready)
		}
		f.now = f.now.Add(wait)
	}
	f.scan()
	f.wantPinned(a)

	file, err := os.Open(f.path("x.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := f.s.Load(context.Background(), &steadyFile{file, "another"}, LoadOptions{}); !errors.Is(err, errChanged) || !mayPass(err) {
		t.Errorf("a file that changes while it is read: %v", err)
	}
}

func TestFoldersThatCannotBeTrusted(t *testing.T) {
	f := watch(t)
	a := imagetest.New(someLayer("a"))
	f.put("a.tar", archiveOf(map[string]*imagetest.Image{"r.example/a:1": a}))
	f.scan()
	// One that is not there for a while takes nothing away.
	if err := os.Rename(f.dir, f.dir+"-away"); err != nil {
		t.Fatal(err)
	}
	f.scan()
	f.wantPinned(a)
	if err := errors.Join(os.Rename(f.dir+"-away", f.dir), os.Chmod(f.dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	f.put("b.tar", archiveOf(map[string]*imagetest.Image{"r.example/a:1": imagetest.New(someLayer("b"))}))
	f.scan()
	f.wantPinned(a)
	if why := f.s.imports.unreadable[f.dir]; !strings.Contains(why, "everybody") {
		t.Errorf("why nothing was imported: %q", why)
	}
}
