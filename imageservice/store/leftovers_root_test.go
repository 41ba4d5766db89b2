package store

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A kill between the writing of a record and its renaming leaves a file beside the
// record: the next start removes it, and not only with the image.
func TestTemporaryFilesGo(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	image := addImage(t, s, "a", []string{"a"}, "a")
	if _, _, err := s.CreateRootfs("c1", image, "/m"); err != nil {
		t.Fatal(err)
	}
	places := []string{s.imagePath(image), s.path(layersDir, dirs(t, s, layersDir)[0]), s.path(rootfsDir, "c1")}
	for _, dir := range places {
		if err := os.WriteFile(filepath.Join(dir, tempPrefix+"record.json-1"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = mustOpen(t, root, boot1)
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range places {
		if left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); err != nil || len(left) > 0 {
			t.Errorf("left: %q, %v", left, err)
		}
	}
	expectOnDisk(t, s, 1, 1)
}

// A disk that refused a removal has left a tree that no record knows. It is not in
// the way of the same layer.
func TestLayerReplacesWhatNoRecordKnows(t *testing.T) {
	s := mustOpen(t, t.TempDir(), boot1)
	lease := s.Lease()
	id := addLayer(t, s, lease, "a")
	if err := lease.Release(); err != nil {
		t.Fatal(err)
	}
	stray := s.Diff(id)
	if err := os.MkdirAll(stray, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stray, "stray"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	addImage(t, s, "a", []string{"a"}, "a")
	if _, err := os.Lstat(filepath.Join(stray, "stray")); err == nil {
		t.Error("the layer holds what was there before")
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	expectOnDisk(t, s, 1, 1)
}

// What is to be thrown away at the start needs no room to be thrown into.
func TestOpenOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=0700,size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := mustOpen(t, root, boot1)
	addImage(t, s, "a", []string{"a"}, "a")
	if err := os.WriteFile(s.imagePath(s.Images()[0].ID, tempPrefix+"1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(root, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	// Without a sync, the layer is not trusted in another boot.
	s = mustOpen(t, root, boot2)
	if n := len(s.Images()) + len(s.Layers()); n != 0 {
		t.Errorf("%d images and layers are trusted", n)
	}
}
