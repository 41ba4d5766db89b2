package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// A large layer stays in the page cache only in part, at any time; what pods have there
// stays.
func TestLargeLayerLeavesPageCache(t *testing.T) {
	const (
		large   = 48 << 20
		small   = 20 << 10
		files   = 1000
		allowed = 4 << 20
	)
	disk := imagetest.OnDisk(t)
	pod := filepath.Join(disk, "pod")
	if err := os.WriteFile(pod, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(disk, "layer")
	entries := []imagetest.Entry{imagetest.File("first", string(make([]byte, small)), 0o644)}
	for i := range files {
		entries = append(entries, imagetest.File(fmt.Sprintf("d%d/%d", i%7, i), string(bytes.Repeat([]byte{byte(i)}, small)), 0o644))
	}
	entries = append(entries, imagetest.File("large", string(bytes.Repeat([]byte("large"), large/5)), 0o644))
	l := imagetest.NewLayer(imagetest.Tar(entries...), imagetest.Gzip)
	var most, came int
	progress := func(n int64) {
		// What is on its way: two windows, the batches, and what waits for its turn.
		if came += int(n); came > 2<<20 {
			came, most = 0, max(most, imagetest.Cached(t, dir))
		}
	}
	root := makeDirectory(t, dir)
	spec := Spec{Digest: l.Descriptor.Digest, Size: l.Descriptor.Size, DiffID: l.DiffID, Cached: allowed}
	if _, err := Unpack(context.Background(), io.NopCloser(bytes.NewReader(l.Blob)), spec, root, progress); err != nil {
		t.Fatal(err)
	}
	after := imagetest.Cached(t, dir)
	t.Logf("%d KiB of %d in the page cache, %d at the most", after>>10, (large+files*small)>>10, most>>10)
	if most > allowed+2*behindWindow+(8<<20) || most == 0 {
		t.Errorf("%d bytes were in the page cache", most)
	}
	if after > allowed+(1<<20) {
		t.Errorf("%d bytes have stayed in the page cache", after)
	}
	checkFileLeavesPageCache(t, disk, bytes.Repeat([]byte("large"), large/5))
	if got := imagetest.Cached(t, pod); got < 8<<20 {
		t.Errorf("%d bytes of a pod's file are left in the page cache", got)
	}
}

// checkFileLeavesPageCache writes an artifact's file.
func checkFileLeavesPageCache(t *testing.T, disk string, content []byte) {
	t.Helper()
	dir := filepath.Join(disk, "artifact")
	root := makeDirectory(t, dir)
	spec := Spec{Digest: digest.FromBytes(content), Size: int64(len(content)), Cached: 1 << 20}
	if _, err := WriteFile(context.Background(), io.NopCloser(bytes.NewReader(content)), spec, root, "file", nil); err != nil {
		t.Fatal(err)
	}
	if got := imagetest.Cached(t, dir); got > 1<<20 {
		t.Errorf("%d bytes of an artifact's file have stayed in the page cache", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the artifact's file has %d bytes of %d, or others: %v", len(got), len(content), err)
	}
}

func makeDirectory(t *testing.T, dir string) *os.File {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}
