package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	boot1 = "boot-1"
	boot2 = "boot-2"
)

func mustOpen(t *testing.T, root, boot string) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	s, err := open(root, boot, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// addLayer puts a layer with one file into the store.
func addLayer(t *testing.T, s *Store, lease *Lease, content string) digest.Digest {
	t.Helper()
	in, err := s.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in.Diff.Name(), "file"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	id := digest.FromString(content)
	if err := in.Commit(Layer{DiffID: id, Bytes: 4096, Inodes: 2}, lease); err != nil {
		t.Fatal(err)
	}
	return id
}

// addImage puts an image of layers with the given contents into the store.
func addImage(t *testing.T, s *Store, comment string, refs []string, contents ...string) digest.Digest {
	t.Helper()
	lease := s.Lease()
	var layers []digest.Digest
	for _, c := range contents {
		layers = append(layers, addLayer(t, s, lease, c))
	}
	config := fmt.Appendf(nil, `{"os":"linux","comment":%q}`, comment)
	id := digest.FromBytes(config)
	if err := s.PutImage(Image{ID: id, Layers: layers}, refs, config, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := lease.Release(); err != nil {
		t.Fatal(err)
	}
	return id
}

func dirs(t *testing.T, s *Store, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(s.path(dir))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// expectOnDisk counts what is in each directory.
func expectOnDisk(t *testing.T, s *Store, images, layers int) {
	t.Helper()
	for dir, want := range map[string]int{imagesDir: images, layersDir: layers, ingestDir: 0} {
		if got := dirs(t, s, dir); len(got) != want {
			t.Errorf("%s holds %q, want %d", dir, got, want)
		}
	}
	if n := len(s.Layers()); n != layers {
		t.Errorf("%d layers known, want %d", n, layers)
	}
	if n := len(s.Images()); n != images {
		t.Errorf("%d images known, want %d", n, images)
	}
}

func TestReopenKeepsAll(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	a := addImage(t, s, "a", []string{"r/a:1", "r/a@sha256:x"}, "base", "a")
	b := addImage(t, s, "b", []string{"r/b:1"}, "base", "b")
	if _, err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, boot := range []string{boot1, boot2} {
		s = mustOpen(t, root, boot)
		expectOnDisk(t, s, 2, 3)
		img, err := s.ByName("r/a:1")
		if err != nil || img.ID != a || img.Config.OS != "linux" || len(img.Layers) != 2 {
			t.Fatalf("%+v, %v", img, err)
		}
		if img, err = s.ByID(b.Encoded()[:12]); err != nil || img.ID != b {
			t.Fatalf("%+v, %v", img, err)
		}
	}
	for _, id := range []digest.Digest{a, a, b} {
		if err := s.RemoveImage(id); err != nil {
			t.Fatal(err)
		}
	}
	expectOnDisk(t, s, 0, 0)
}

func TestPowerLossDropsWhatWasNotSynced(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	kept := addImage(t, s, "kept", []string{"kept"}, "one")
	if n, err := s.Sync(context.Background()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	addImage(t, s, "lost", []string{"lost"}, "one", "two")
	// The daemon was killed: nothing is lost.
	expectOnDisk(t, mustOpen(t, root, boot1), 2, 2)
	// The machine went down: what is not known to be on the disk is not trusted.
	s = mustOpen(t, root, boot2)
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	expectOnDisk(t, s, 1, 1)
	if _, err := s.ByID(kept.String()); err != nil {
		t.Error(err)
	}
	if _, err := s.ByName("lost"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
	// It can be pulled again.
	addImage(t, s, "lost", []string{"lost"}, "one", "two")
	expectOnDisk(t, s, 2, 2)
}

func TestDamagedRecords(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"torn":       func(p string) error { return os.Truncate(p, 20) },
		"empty":      func(p string) error { return os.Truncate(p, 0) },
		"changed":    func(p string) error { return flip(p, 60) },
		"removed":    os.Remove,
		"directory":  func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"link":       func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
		"zeros":      func(p string) error { return os.WriteFile(p, make([]byte, 500), 0o600) },
		"other file": func(p string) error { return os.WriteFile(p, []byte(`{"version":9}`), 0o600) },
	} {
		for _, file := range []string{imageFile, configFile, layerFile} {
			t.Run(name+" "+file, func(t *testing.T) {
				root := t.TempDir()
				s := mustOpen(t, root, boot1)
				bad := addImage(t, s, "bad", []string{"bad"}, "bad")
				good := addImage(t, s, "good", []string{"good"}, "good")
				path := s.imagePath(bad, file)
				if file == layerFile {
					path = s.path(layersDir, digest.FromString("bad").Encoded(), layerFile)
				}
				if err := damage(path); err != nil {
					t.Fatal(err)
				}
				s = mustOpen(t, root, boot1)
				if err := s.Sweep(); err != nil {
					t.Fatal(err)
				}
				expectOnDisk(t, s, 1, 1)
				if img, err := s.ByName("good"); err != nil || img.ID != good {
					t.Errorf("%v, %v", img, err)
				}
				if file != layerFile && len(dirs(t, s, damagedDir)) != 1 {
					t.Error("nothing was set aside to look at")
				}
				// And again, as long as the name is free.
				addImage(t, s, "bad", []string{"bad"}, "bad")
				expectOnDisk(t, mustOpen(t, root, boot1), 2, 2)
			})
		}
	}
}

// flip changes one bit of the file.
func flip(path string, offset int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[min(offset, len(b)-1)] ^= 1
	return os.WriteFile(path, b, 0o600)
}

func TestKillLeavesOnlyIngest(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	addImage(t, s, "a", []string{"a"}, "a")
	// Killed while unpacking, after a commit, while writing a record, while
	// removing.
	if _, err := s.Ingest(); err != nil {
		t.Fatal(err)
	}
	addLayer(t, s, s.Lease(), "orphan")
	for _, path := range []string{s.path(imagesDir, tempPrefix+"x"), s.imagePath(digest.Digest("sha256:"+dirs(t, s, imagesDir)[0]), tempPrefix+imageFile)} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(s.path(ingestDir, "trash-1", "it", "diff"), 0o755); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, root, boot1)
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	expectOnDisk(t, s, 1, 1)
}

func TestSweepLeavesWhatIsBeingMade(t *testing.T) {
	s := mustOpen(t, t.TempDir(), boot1)
	in, err := s.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	lease := s.Lease()
	if err := in.Commit(Layer{DiffID: digest.FromString("x")}, lease); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(s.Diff(digest.FromString("x"))); err != nil || !st.IsDir() {
		t.Fatal(err)
	}
}

func TestNamesMove(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	a := addImage(t, s, "a", []string{"app:latest", "app@1"}, "a")
	b := addImage(t, s, "b", []string{"app:latest", "app@2"}, "b")
	check := func(s *Store) {
		t.Helper()
		for ref, want := range map[string]digest.Digest{"app:latest": b, "app@1": a, "app@2": b} {
			if img, err := s.ByName(ref); err != nil || img.ID != want {
				t.Errorf("%s is %v, %v, want %s", ref, img, err, want)
			}
		}
		img, err := s.ByID(a.String())
		if err != nil || !slices.Equal(img.Refs(), []string{"app@1"}) {
			t.Errorf("old image is called %q, %v", img.Refs(), err)
		}
	}
	check(s)
	check(mustOpen(t, root, boot1))
	// Killed before the old image's record was written: the numbers tell.
	old, err := s.ByID(a.String())
	if err != nil {
		t.Fatal(err)
	}
	stale := old.clone()
	stale.Names = append(stale.Names, Name{Ref: "app:latest", Seq: 1})
	if err := writeRecord(s.imagePath(a, imageFile), imageKind, stale); err != nil {
		t.Fatal(err)
	}
	check(mustOpen(t, root, boot1))
}

func TestPrefixes(t *testing.T) {
	s := mustOpen(t, t.TempDir(), boot1)
	var ids []digest.Digest
	for i := range 20 {
		ids = append(ids, addImage(t, s, fmt.Sprint(i), nil, "shared"))
	}
	for _, id := range ids {
		for _, name := range []string{id.String(), id.Encoded(), id.Encoded()[:16], id.String()[:20]} {
			if img, err := s.ByID(name); err != nil || img.ID != id {
				t.Errorf("%q: %v, %v", name, img, err)
			}
		}
	}
	ambiguous := 0
	for _, c := range "0123456789abcdef" {
		if _, err := s.ByID(string(c)); errors.Is(err, errdefs.ErrInvalidArgument) {
			ambiguous++
		}
	}
	if ambiguous == 0 {
		t.Error("no beginning is ambiguous")
	}
	for _, name := range []string{"", "sha256:", "xyz", "sha512:" + ids[0].Encoded()[:3] + "zz"} {
		if _, err := s.ByID(name); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestLeaseAndRootfsKeepLayers(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	img := addImage(t, s, "a", []string{"a"}, "one", "two")
	one, two := digest.FromString("one"), digest.FromString("two")
	lease := s.Lease()
	if _, ok := lease.Hold(one); !ok {
		t.Fatal("not there")
	}
	if _, created, err := s.CreateRootfs("c1", img, "/nowhere"); err != nil || !created {
		t.Fatal(created, err)
	}
	if err := s.RemoveImage(img); err != nil {
		t.Fatal(err)
	}
	expectOnDisk(t, s, 0, 2)
	// Also over a restart, which only a record survives.
	s = mustOpen(t, root, boot1)
	expectOnDisk(t, s, 0, 2)
	if err := s.RemoveRootfs("c1"); err != nil {
		t.Fatal(err)
	}
	expectOnDisk(t, s, 0, 0)
	if _, ok := s.Lease().Hold(two); ok {
		t.Error("still there")
	}
	for _, id := range []string{"c1", "never"} {
		if err := s.RemoveRootfs(id); err != nil {
			t.Error(err)
		}
	}
}

func TestRootfsRecords(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	img := addImage(t, s, "a", []string{"a"}, "one")
	if _, err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "../x", "a/b", ".hidden", "a\x00", string(make([]byte, 200))} {
		if _, _, err := s.CreateRootfs(id, img, "/x"); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("container ID %q: %v", id, err)
		}
	}
	if _, _, err := s.CreateRootfs("c", digest.FromString("none"), "/x"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
	if _, _, err := s.CreateRootfs("c", img, "/x"); err != nil {
		t.Fatal(err)
	}
	if err := s.MoveRootfs("c", "/y"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, root, boot2)
	rec, err := s.Rootfs("c")
	if err != nil || rec.Mountpoint != "/y" || s.Trusted(rec) {
		t.Errorf("%+v, %v", rec, err)
	}
	// Its record torn, it is still there to be removed.
	if err := os.Truncate(s.path(rootfsDir, "c", rootfsFile), 10); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, root, boot2)
	if ids := s.RootfsIDs(); !slices.Equal(ids, []string{"c"}) {
		t.Errorf("root file systems %q", ids)
	}
	if err := s.RemoveRootfs("c"); err != nil || len(dirs(t, s, rootfsDir)) != 0 {
		t.Error(err)
	}
}

func TestLostLayerOfRootfsIsNotCountedTwice(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	img := addImage(t, s, "a", []string{"a"}, "one")
	if _, _, err := s.CreateRootfs("c", img, "/x"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, root, boot2) // never synced: image and layer are gone
	addImage(t, s, "a", []string{"a"}, "one")
	if err := s.RemoveRootfs("c"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Layer(digest.FromString("one")); err != nil {
		t.Errorf("the new image's layer was removed with the old container: %v", err)
	}
}

func TestModes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "new")
	s := mustOpen(t, root, boot1)
	for _, dir := range []string{"", imagesDir, layersDir, rootfsDir, ingestDir, damagedDir} {
		st, err := os.Stat(s.path(dir))
		if err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%q has mode %v, %v", dir, st.Mode(), err)
		}
	}
}

func TestSameLayerTwice(t *testing.T) {
	s := mustOpen(t, t.TempDir(), boot1)
	l1, l2 := s.Lease(), s.Lease()
	addLayer(t, s, l1, "x")
	addLayer(t, s, l2, "x")
	for i, l := range []*Lease{l1, l1, l2} {
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
		want := 1
		if i == 2 {
			want = 0
		}
		expectOnDisk(t, s, 0, want)
	}
}
