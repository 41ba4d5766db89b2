package inventory

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/tree"
)

// makeTree fills a new directory with one of each kind.
func makeTree(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	root := filepath.Join(t.TempDir(), "tree")
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(root, name) }
	do(os.MkdirAll(at("a/deep"), 0o755), os.Mkdir(at("a-b"), 0o700), os.Mkdir(at("b"), 0o711))
	do(os.WriteFile(at("a/deep/file"), []byte("content"), 0o644), os.WriteFile(at("a-b/x"), nil, 0o600))
	do(os.WriteFile(at("big"), []byte(strings.Repeat("0123456789abcdef", 70_000)), 0o4755))
	do(os.Link(at("big"), at("a-b/big")), os.Symlink("../target", at("link")))
	do(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mknod(at("gone"), unix.S_IFCHR, 0))
	do(unix.Mkfifo(at("fifo"), 0o600), unix.Setxattr(at("b"), "trusted.overlay.opaque", []byte("y"), 0))
	sparse, err := os.Create(at("sparse"))
	do(err)
	_, err = sparse.WriteAt([]byte("end"), 64<<20)
	do(err, sparse.Close())
	then := time.Unix(1_600_000_000, 123_456_789)
	do(os.Chtimes(at("a/deep/file"), then, then), os.Chtimes(at("a/deep"), then, then), os.Lchown(at("link"), 5, 6))
	return root
}

// flushed is Write for a tree that goes to the disk and leaves the page cache.
func flushed(t *testing.T, file, root string, untimed []string) (digest.Digest, Usage) {
	t.Helper()
	flush, err := tree.NewFlusher(root, true)
	if err != nil {
		t.Fatal(err)
	}
	d, usage, err := Write(context.Background(), file, root, untimed, flush)
	if err := errors.Join(err, flush.Close()); err != nil {
		t.Fatal(err)
	}
	return d, usage
}

func TestCheck(t *testing.T) {
	then := time.Unix(1_500_000_000, 0)
	for name, c := range map[string]struct {
		change func(at func(string) string) error
		want   string
	}{
		"nothing":     {func(func(string) string) error { return nil }, ""},
		"bit":         {func(at func(string) string) error { return poke(at("big"), 400_000) }, "a-b/big: content differs"},
		"first byte":  {func(at func(string) string) error { return poke(at("a/deep/file"), 0) }, "content differs"},
		"hole filled": {func(at func(string) string) error { return poke(at("sparse"), 4096) }, "sparse: content differs"},
		"truncated":   {func(at func(string) string) error { return os.Truncate(at("big"), 9) }, "size is 9"},
		"longer":      {func(at func(string) string) error { return os.Truncate(at("a-b/x"), 4) }, "size is 4"},
		"missing":     {func(at func(string) string) error { return os.Remove(at("link")) }, "link: is missing"},
		"last":        {func(at func(string) string) error { return os.Remove(at("sparse")) }, "sparse: is missing"},
		"subtree":     {func(at func(string) string) error { return os.RemoveAll(at("a")) }, "a/deep/file: is missing"},
		"new":         {func(at func(string) string) error { return os.WriteFile(at("a/new"), nil, 0o644) }, "a/new: does not belong there"},
		"type": {func(at func(string) string) error {
			return errors.Join(os.Remove(at("fifo")), os.Mkdir(at("fifo"), 0o600))
		}, "fifo: is a directory, not a FIFO"},
		"mode":      {func(at func(string) string) error { return os.Chmod(at("a-b"), 0o755) }, "a-b: mode is 0755, not 0700"},
		"owner":     {func(at func(string) string) error { return os.Lchown(at("link"), 5, 7) }, "link: owner is 5:7, not 5:6"},
		"time":      {func(at func(string) string) error { return os.Chtimes(at("a/deep/file"), then, then) }, "a/deep/file: time is"},
		"opaque":    {func(at func(string) string) error { return unix.Removexattr(at("b"), "trusted.overlay.opaque") }, "b: extended attributes differ"},
		"attribute": {func(at func(string) string) error { return unix.Setxattr(at("big"), "user.x", []byte("1"), 0) }, "extended attributes differ"},
		"link target": {func(at func(string) string) error {
			return errors.Join(os.Remove(at("link")), os.Symlink("../tarGet", at("link")), os.Lchown(at("link"), 5, 6))
		}, `link target is ../tarGet`},
		"hard link broken": {func(at func(string) string) error {
			b, err := os.ReadFile(at("big"))
			return errors.Join(err, os.Remove(at("big")), os.WriteFile(at("big"), b, 0o755))
		}, "big: "},
		"whiteout's time": {func(at func(string) string) error { return os.Chtimes(at("gone"), then, then) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := makeTree(t)
			file := filepath.Join(t.TempDir(), "inventory")
			// What happens to their times when something is done to what is in them is
			// not what these tests are about.
			untimed := []string{".", "a", "a-b", "a/deep", "b"}
			d, usage := flushed(t, file, root, untimed)
			if usage.Entries != 14 || usage.Inodes != 13 {
				t.Fatalf("%+v", usage)
			}
			if err := c.change(func(name string) string { return filepath.Join(root, name) }); err != nil {
				t.Fatal(err)
			}
			report, err := Check(context.Background(), file, d, root, untimed)
			if err != nil {
				t.Fatal(err)
			}
			found := slices.ContainsFunc(report.Differences, func(d Difference) bool { return strings.Contains(d.String(), c.want) })
			if c.want == "" && !report.Same() || c.want != "" && !found {
				t.Errorf("found %v, want %q", report.Differences, c.want)
			}
		})
	}
}

// poke changes one byte and nothing else that stat would show.
func poke(name string, offset int64) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], offset)
	b[0] ^= 0x40
	_, werr := f.WriteAt(b[:], offset)
	return errors.Join(err, werr, f.Close(), os.Chtimes(name, time.Unix(st.Atim.Unix()), time.Unix(st.Mtim.Unix())))
}

func TestDamagedInventory(t *testing.T) {
	root := makeTree(t)
	file := filepath.Join(t.TempDir(), "inventory")
	d, _, err := Write(context.Background(), file, root, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := poke(file, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(context.Background(), file, d, root, nil); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if _, err := Check(context.Background(), file+"x", d, root, nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestOrder(t *testing.T) {
	names := []string{".", "a", "a/b", "a/b/c", "a/b-c", "a-b", "a.", "a0", "b"}
	for i, a := range names {
		for j, b := range names {
			if less(a, b) != (i < j) {
				t.Errorf("less(%q, %q) is %v", a, b, less(a, b))
			}
		}
	}
}
