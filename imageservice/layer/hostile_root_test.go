package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/tree"
	"golang.org/x/sys/unix"
)

// needRoot fails where the test cannot do what it is for: a skip would count as
// a pass.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
}

// unpackTo unpacks a layer into a new directory, which it returns.
func unpackTo(t *testing.T, l imagetest.Layer) (string, Result, error) {
	t.Helper()
	needRoot(t)
	return unpackIn(t, t.TempDir(), l)
}

func unpackIn(t *testing.T, parent string, l imagetest.Layer) (string, Result, error) {
	t.Helper()
	dir := filepath.Join(parent, "root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.RemovePath(parent, "root"); err != nil {
			t.Error(err)
		}
	})
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	spec := Spec{Digest: l.Descriptor.Digest, Size: l.Descriptor.Size, DiffID: l.DiffID}
	res, err := Unpack(context.Background(), io.NopCloser(bytes.NewReader(l.Blob)), spec, root, nil)
	return dir, res, err
}

// listing describes all below dir, so that any change shows.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		content, _ := os.ReadFile(path)
		xattrs := make([]byte, 1<<16)
		n, _ := unix.Llistxattr(path, xattrs)
		lines = append(lines, fmt.Sprintf("%s %o %d:%d %d %d %q %q", path, st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Nano(), content, xattrs[:max(n, 0)]))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func TestHostileLayers(t *testing.T) {
	needRoot(t)
	canary := t.TempDir()
	if err := os.WriteFile(filepath.Join(canary, "file"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := listing(t, canary)
	for _, h := range imagetest.HostileLayers(canary) {
		t.Run(h.Name, func(t *testing.T) {
			dir, _, err := unpackTo(t, imagetest.NewLayer(h.Archive, imagetest.Gzip))
			if h.Refused && !errors.Is(err, ErrHostile) {
				t.Errorf("error %v, want ErrHostile", err)
			}
			if !h.Refused && err != nil {
				t.Errorf("refused: %v", err)
			}
			if after := listing(t, canary); after != before {
				t.Errorf("outside has changed:\n%s\nwas\n%s", after, before)
			}
			if list, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(list) != 1 {
				t.Errorf("beside the root: %v, %v", list, err)
			}
			checkNoEscape(t, dir, canary)
		})
	}
}

// checkNoEscape looks for other names of the canary and for attributes that only
// overlayfs may have.
func checkNoEscape(t *testing.T, dir, canary string) {
	t.Helper()
	var file unix.Stat_t
	if err := unix.Stat(filepath.Join(canary, "file"), &file); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Ino == file.Ino && st.Dev == file.Dev {
			t.Errorf("%s is the file outside", path)
		}
		buf := make([]byte, 1<<16)
		n, err := unix.Llistxattr(path, buf)
		if err != nil {
			return err
		}
		for _, name := range strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
			allowed := name == "" || name == opaqueXattr || keepXattr(name)
			if !allowed {
				t.Errorf("%s has attribute %s", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOverlayAttributesAreDropped(t *testing.T) {
	dir, _, err := unpackTo(t, imagetest.NewLayer(imagetest.Tar(
		imagetest.Dir("d", 0o755).Xattr("trusted.overlay.opaque", "y"),
	), imagetest.Plain))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Getxattr(filepath.Join(dir, "d"), opaqueXattr, nil); err == nil {
		t.Error("an archive can make directories opaque by an attribute")
	}
}

// TestDeepTree builds a tree far deeper than a path can name, by links.
func TestDeepTree(t *testing.T) {
	const chains = 12
	step := strings.Repeat("d/", 1000)
	entries := []imagetest.Entry{imagetest.Dir(step, 0o755), imagetest.Symlink("s0", step)}
	for i := range chains {
		prev, next := fmt.Sprintf("s%d", i), fmt.Sprintf("s%d", i+1)
		entries = append(entries, imagetest.Dir(prev+"/"+step, 0o755), imagetest.Symlink(next, prev+"/"+step))
	}
	_, res, err := unpackIn(t, memory(t, "256m"), imagetest.NewLayer(imagetest.Tar(entries...), imagetest.Gzip))
	if err != nil {
		t.Fatal(err)
	}
	if want := uint64((chains + 1) * 1000); res.Inodes < want {
		t.Errorf("%d inodes, want at least %d", res.Inodes, want)
	}
}

// memory mounts a tmpfs of the given size.
func memory(t *testing.T, size string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
