package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// layoutDirectory has files as an OCI layout does.
func layoutDirectory(t *testing.T) (dir string, files map[string]string) {
	t.Helper()
	dir, files = t.TempDir(), map[string]string{"oci-layout": "{}", "index.json": "index", "blobs/sha256/aa": strings.Repeat("a", 100_000), "blobs/sha256/bb": ""}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, files
}

func TestDirectoriesAreArchives(t *testing.T) {
	dir, files := layoutDirectory(t)
	if err := os.Symlink("sha256/aa", filepath.Join(dir, "blobs/link")); err != nil {
		t.Fatal(err)
	}
	files["blobs/link"] = files["blobs/sha256/aa"]
	var archive bytes.Buffer
	if err := packDirectory(dir, &archive); err != nil {
		t.Fatal(err)
	}
	for in := tar.NewReader(&archive); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if want, ok := files[h.Name]; err != nil || !ok || string(text) != want || h.Typeflag != tar.TypeReg {
			t.Errorf("%s: %d bytes of type %q, %v", h.Name, len(text), h.Typeflag, err)
		}
		delete(files, h.Name)
	}
	if len(files) > 0 {
		t.Errorf("missing: %v", files)
	}
}

func TestLinksOutOfADirectoryAreRefused(t *testing.T) {
	for _, target := range []string{"/etc/passwd", "../../etc/passwd", "nowhere", "."} {
		dir, _ := layoutDirectory(t)
		if err := os.Symlink(target, filepath.Join(dir, "blobs/link")); err != nil {
			t.Fatal(err)
		}
		var archive bytes.Buffer
		if err := packDirectory(dir, &archive); err == nil || !strings.Contains(err.Error(), "blobs/link") {
			t.Errorf("a link to %s: %v", target, err)
		}
	}
}

func TestUnpackDirectory(t *testing.T) {
	archive := func(entries ...tar.Header) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			h.Mode = 0o4777
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := unpackDirectory(archive(tar.Header{Typeflag: tar.TypeDir, Name: "blobs/"}, tar.Header{Typeflag: tar.TypeReg, Name: "blobs/a"}), dir); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "blobs/a")); err != nil || st.Mode() != 0o644 {
		t.Errorf("%v, %v", st, err)
	}
	if err := unpackDirectory(archive(), dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("over another: %v", err)
	}
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "../up"},
		{Typeflag: tar.TypeReg, Name: "/abs"},
		{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "/etc"},
	} {
		if err := unpackDirectory(archive(h), filepath.Join(t.TempDir(), "out")); err == nil {
			t.Errorf("%s is taken", h.Name)
		}
	}
}
