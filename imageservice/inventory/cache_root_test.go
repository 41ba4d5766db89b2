package inventory

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// What pods have in the page cache stays there, and what a check reads does not come to it.
func TestCheckLeavesPageCacheAsItIs(t *testing.T) {
	const (
		size   = 16 << 20
		middle = 6 << 20 // of one file that is read in part
		slack  = 1 << 20 // the kernel may take some away
	)
	root := imagetest.OnDisk(t)
	file := filepath.Join(t.TempDir(), "inventory")
	write := func(name string, n int) string {
		t.Helper()
		path := filepath.Join(root, name)
		err := os.WriteFile(path, bytes.Repeat([]byte(name), n/len(name)), 0o600)
		f, oerr := os.Open(path)
		if err = errors.Join(err, oerr); err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	used, cold, part := write("used", size), write("cold", size), write("part", size)
	d, _ := flushed(t, file, root, nil)
	// A pod reads one file, and some of the middle of another.
	if _, err := os.ReadFile(used); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(part)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil { // reads less ahead
		t.Fatal(err)
	}
	if _, err := f.ReadAt(make([]byte, middle), size/4); err != nil {
		t.Fatal(err)
	}
	partly := imagetest.Cached(t, part) // what was read ahead as well
	if partly < middle || partly > size-2*slack {
		t.Fatalf("%d bytes are in the page cache of the file that is read in part", partly)
	}
	report, err := Check(context.Background(), file, d, root, nil)
	if err != nil || !report.Same() {
		t.Fatalf("%v, %v", report.Differences, err)
	}
	for path, want := range map[string]int{used: size, part: partly, cold: 0} {
		if got := imagetest.Cached(t, path); got < want-slack || got > want+slack {
			t.Errorf("%d bytes of %s are in the page cache, want %d", got, filepath.Base(path), want)
		}
	}
}
