package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// replaceUntil puts another tree in the place of the layer, up to a step.
func replaceUntil(t *testing.T, s *Store, id digest.Digest, until string) {
	t.Helper()
	in, err := s.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in.Diff.Name(), "file"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	rec := Layer{DiffID: id, Bytes: 4096, Inodes: 2, BootID: s.bootID}
	if until == "" {
		lease := s.Lease()
		lease.Hold(id)
		if _, err := in.Replace(rec); err != nil {
			t.Fatal(err)
		}
		if err := lease.Release(); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir, err := s.supersedeDir(id)
	if err != nil || until == "directory" {
		return
	}
	aside := s.path(supersededDir, dir, supersededLayerDir)
	err = errors.Join(writeRecord(filepath.Join(in.dir, layerFile), layerKind, rec), os.Rename(in.dir, aside))
	if err == nil && until == "exchanged" {
		err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, s.path(layersDir, id.Encoded()), unix.RENAME_EXCHANGE)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// However far a kill lets a repair come: the layer is whole, what a container may have
// mounted stays until it is removed, and then nothing is left.
func TestKillInReplace(t *testing.T) {
	for until, want := range map[string]string{"directory": "old", "moved": "old", "exchanged": "new", "": "new"} {
		for _, used := range []bool{false, true} {
			t.Run(until, func(t *testing.T) {
				root := t.TempDir()
				s := mustOpen(t, root, boot1)
				image := addImage(t, s, "a", []string{"r/a:1"}, "old")
				id := digest.FromString("old")
				if used {
					if _, _, err := s.CreateRootfs("c", image, "/nowhere"); err != nil {
						t.Fatal(err)
					}
				}
				replaceUntil(t, s, id, until)
				s = mustOpen(t, root, boot1)
				if b, err := os.ReadFile(filepath.Join(s.Diff(id), "file")); err != nil || string(b) != want {
					t.Errorf("the layer holds %q, %v", b, err)
				}
				kept := used && until != "directory"
				if err := errors.Join(s.Sweep(), s.Reconcile(context.Background())); err != nil {
					t.Error(err)
				}
				if n := len(dirs(t, s, supersededDir)); (n == 1) != kept {
					t.Errorf("%d superseded layers, used: %v", n, used)
				}
				// Another container has nothing to do with it.
				if _, _, err := s.CreateRootfs("later", image, "/nowhere"); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(s.RemoveRootfs("c"), s.Reconcile(context.Background())); err != nil {
					t.Error(err)
				}
				if left := dirs(t, s, supersededDir); len(left) != 0 {
					t.Errorf("left: %q", left)
				}
				if err := errors.Join(s.RemoveRootfs("later"), s.RemoveImage(image)); err != nil {
					t.Error(err)
				}
				expectOnDisk(t, s, 0, 0)
			})
		}
	}
}

// After another boot no container has anything mounted.
func TestSupersededGoesWithBoot(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	image := addImage(t, s, "a", []string{"r/a:1"}, "old")
	if _, _, err := s.CreateRootfs("c", image, "/nowhere"); err != nil {
		t.Fatal(err)
	}
	replaceUntil(t, s, digest.FromString("old"), "")
	if _, err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, root, boot2)
	if err := s.Sweep(); err != nil {
		t.Error(err)
	}
	if left := dirs(t, s, supersededDir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// What an error of the disk has left is removed later, and what nobody knows.
func TestReconcile(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, root, boot1)
	image := addImage(t, s, "a", []string{"r/a:1"}, "one")
	if _, _, err := s.CreateRootfs("c", image, "/nowhere"); err != nil {
		t.Fatal(err)
	}
	strays := []string{
		s.path(layersDir, digest.FromString("stray").Encoded(), diffDir), s.path(imagesDir, "x"), s.path(rootfsDir, "gone", upperDir),
		s.path(volumesDir, "y"), s.path(supersededDir, "z"),
	}
	for _, dir := range strays {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	stuck := s.path(ingestDir, "trash-1")
	if err := os.Mkdir(stuck, 0o700); err != nil {
		t.Fatal(err)
	}
	s.noteStuck(stuck)
	inWork, err := s.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Reconcile(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(strays, stuck) {
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
	for _, dir := range []string{s.imagePath(image), s.Diff(digest.FromString("one")), s.path(rootfsDir, "c"), inWork.Diff.Name()} {
		if _, err := os.Lstat(dir); err != nil {
			t.Errorf("it was needed: %v", err)
		}
	}
	inWork.Abort()
	if err := errors.Join(s.RemoveImage(image), s.RemoveRootfs("c")); err != nil {
		t.Error(err)
	}
	expectOnDisk(t, s, 0, 0)
}
