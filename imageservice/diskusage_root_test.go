package imageservice

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// du is what the program of that name says, in bytes.
func du(t *testing.T, dir string) uint64 {
	t.Helper()
	out, err := exec.Command("du", "-s", "-x", "--block-size=1", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(strings.Fields(string(out))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func write(t *testing.T, path string, size int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The survey explains what du finds, all of it.
func TestDiskUsageIsThatOfDu(t *testing.T) {
	state := t.TempDir()
	s, r := newService(t, func(o *Options) { o.State = state }), newRegistry(t)
	var files []imagetest.Entry
	for i := range 300 {
		files = append(files, imagetest.File("dir"+strconv.Itoa(i%20)+"/file"+strconv.Itoa(i), strings.Repeat("k", i*100), 0o644))
	}
	shared := layerOf(files...)
	first := mustPull(t, s, push(t, r, "one", "1", imagetest.New(shared, layerOf(imagetest.File("one", strings.Repeat("1", 700_000), 0o644)))))
	second := mustPull(t, s, push(t, r, "two", "1", imagetest.New(shared, layerOf(imagetest.File("two", "2", 0o644)))))
	if _, err := s.store.Sync(bg); err != nil {
		t.Fatal(err)
	}
	root := mount(t, s, "c1", first)
	write(t, filepath.Join(root, "written", "by-container"), 500_000)
	if _, err := s.MakeVolumes(bg, "c1", []string{"/dir1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MountImage(bg, "c1", second, "", ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.RemoveRootfs(bg, "c1") })
	base := s.store.Root()
	write(t, filepath.Join(base, "sandboxes", "pod.json"), 9000)
	write(t, filepath.Join(base, "stranger", "file"), 100_000)
	write(t, filepath.Join(base, "layers", "stray", "file"), 50_000)
	write(t, filepath.Join(base, "partial", "sha256-abc"), 60_000)
	write(t, filepath.Join(base, "ingest", "layer-1", "file"), 70_000)
	usage, err := s.DiskUsage(bg, map[string]bool{"sandboxes": true})
	if err != nil {
		t.Fatal(err)
	}
	total, byKind, sharedLayers := uint64(0), map[string]uint64{}, 0
	for _, i := range usage.Items {
		total += i.Bytes
		byKind[i.Kind] += i.Bytes
		if i.Shared && i.Kind == DiskLayer {
			sharedLayers++
			if len(i.Images) != 2 {
				t.Errorf("%+v", i)
			}
		}
	}
	want := du(t, base)
	if total < want*99/100 || total > want*101/100 {
		t.Errorf("explains %d of %d bytes: %+v", total, want, usage.Items)
	}
	for kind, least := range map[string]uint64{
		DiskImage: 1, DiskLayer: 4_000_000, DiskContainer: 500_000, DiskVolume: 1, DiskBlob: 1, DiskPartial: 60_000,
		DiskIngest: 70_000, DiskRecord: 9000, DiskOrphan: 150_000,
	} {
		if byKind[kind] < least {
			t.Errorf("%s: %d bytes, want at least %d", kind, byKind[kind], least)
		}
	}
	if byKind[DiskOrphan] > 200_000 || sharedLayers != 1 {
		t.Errorf("orphans of %d bytes, %d shared layers", byKind[DiskOrphan], sharedLayers)
	}
	// Reconcile removes those that lie in the store's own directories.
	if err := s.store.Reconcile(bg); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(base, "layers", "stray")); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(base, "stranger")); err != nil {
		t.Error("what is not in the store's directories is not its to remove")
	}
}
