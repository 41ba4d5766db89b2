package imageservice

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// twoLayers is an image whose lower layer is good to damage.
func twoLayers() (*imagetest.Image, imagetest.Layer, imagetest.Layer) {
	lower := layerOf(imagetest.Dir("dir", 0o755), imagetest.File("dir/file", strings.Repeat("good", 5000), 0o644), imagetest.File("other", "other", 0o600))
	upper := layerOf(imagetest.File("top", "top", 0o644))
	return imagetest.New(lower, upper), lower, upper
}

// check runs Check and returns what it found, by kind and ID.
func check(t *testing.T, s *Service, o CheckOptions) map[string]Finding {
	t.Helper()
	found := map[string]Finding{}
	err := s.Check(bg, o, func(f Finding) error {
		found[f.Kind+" "+f.ID] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func expectState(t *testing.T, found map[string]Finding, what, state string) {
	t.Helper()
	if f := found[what]; f.State != state {
		t.Errorf("%s is %q, want %q: %+v", what, f.State, state, f)
	}
}

// spoil changes a file of a layer without changing what stat shows.
func spoil(t *testing.T, s *Service, l imagetest.Layer, name string) {
	t.Helper()
	path := filepath.Join(s.store.Diff(l.DiffID), name)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("X"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), os.Chtimes(path, st.ModTime(), st.ModTime())); err != nil {
		t.Fatal(err)
	}
}

func TestCheckFindsAndRepairs(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, s *Service, l imagetest.Layer){
		"content": func(t *testing.T, s *Service, l imagetest.Layer) { spoil(t, s, l, "dir/file") },
		"missing file": func(t *testing.T, s *Service, l imagetest.Layer) {
			if err := os.Remove(filepath.Join(s.store.Diff(l.DiffID), "other")); err != nil {
				t.Fatal(err)
			}
		},
		"no directory": func(t *testing.T, s *Service, l imagetest.Layer) {
			if err := os.RemoveAll(s.store.Diff(l.DiffID)); err != nil {
				t.Fatal(err)
			}
		},
		"nothing left": func(t *testing.T, s *Service, l imagetest.Layer) {
			if err := os.RemoveAll(filepath.Dir(s.store.Diff(l.DiffID))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := newService(t, discardBlobs), newRegistry(t)
			i, lower, upper := twoLayers()
			id := mustPull(t, s, push(t, r, "app", "1", i))
			damaged, whole := "layer "+lower.DiffID.String(), "layer "+upper.DiffID.String()
			for what, f := range check(t, s, CheckOptions{}) {
				if f.State != CheckIntact {
					t.Errorf("%s before anything happened: %+v", what, f)
				}
			}
			damage(t, s, lower)
			found := check(t, s, CheckOptions{})
			expectState(t, found, damaged, CheckDamaged)
			expectState(t, found, whole, CheckIntact)
			if f := found[damaged]; len(f.Problems) == 0 || !slices.Contains(f.Images, r.Host+"/app:1") {
				t.Errorf("%+v", f)
			}
			expectState(t, check(t, s, CheckOptions{Images: []string{id}, Repair: true}), damaged, CheckRepaired)
			found = check(t, s, CheckOptions{})
			expectState(t, found, damaged, CheckIntact)
			expectState(t, found, whole, CheckIntact)
			if n := len(r.Requests("blobs/" + upper.Descriptor.Digest.String())); n != 1 {
				t.Errorf("the whole layer was fetched %d times", n)
			}
			root := mount(t, s, "c", id)
			if got := read(t, root, "dir/file") + read(t, root, "other") + read(t, root, "top"); got != strings.Repeat("good", 5000)+"othertop" {
				t.Errorf("%d bytes", len(got))
			}
			removeAll(t, s, "c", id)
			expectEmpty(t, s)
			expectNoSuperseded(t, s)
		})
	}
}

func removeAll(t *testing.T, s *Service, container, image string) {
	t.Helper()
	if err := errors.Join(s.RemoveRootfs(bg, container), s.RemoveImage(bg, &runtimeapi.ImageSpec{Image: image})); err != nil {
		t.Fatal(err)
	}
}

func expectNoSuperseded(t *testing.T, s *Service) {
	t.Helper()
	if err := s.store.Reconcile(bg); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{"superseded", "ingest", "layers"} {
		if left, err := os.ReadDir(filepath.Join(s.store.Root(), dir)); err != nil || len(left) != 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
}

// A container that runs goes on with what it has, whatever that is; the next one has
// the repaired layer.
func TestRepairUnderContainer(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	i, lower, _ := twoLayers()
	id := mustPull(t, s, push(t, r, "app", "1", i))
	check(t, s, CheckOptions{})
	spoil(t, s, lower, "dir/file")
	before := mount(t, s, "before", id)
	f := check(t, s, CheckOptions{Repair: true})["layer "+lower.DiffID.String()]
	if f.State != CheckRepaired || !strings.Contains(f.Detail, "1 containers") {
		t.Errorf("%+v", f)
	}
	if got := read(t, before, "dir/file"); !strings.HasPrefix(got, "Xood") {
		t.Errorf("the layer changed under a container: %q", got[:4])
	}
	if got := read(t, before, "other"); got != "other" {
		t.Errorf("a file that was not read before holds %q", got)
	}
	after := mount(t, s, "after", id)
	if got := read(t, after, "dir/file"); !strings.HasPrefix(got, "good") {
		t.Errorf("a new container has %q", got[:4])
	}
	// Another process takes it up as it is.
	again, err := New(s.opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.store.Reconcile(bg); err != nil {
		t.Error(err)
	}
	if got := read(t, before, "other"); got != "other" {
		t.Errorf("after a restart a file holds %q", got)
	}
	removeAll(t, again, "before", id)
	expectNo := func(want int) {
		t.Helper()
		if err := again.store.Reconcile(bg); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(filepath.Join(s.store.Root(), "superseded")); err != nil || len(left) != want {
			t.Errorf("%v, %v", left, err)
		}
	}
	expectNo(0)
	if err := again.RemoveRootfs(bg, "after"); err != nil {
		t.Error(err)
	}
	expectEmpty(t, again)
}

// An image that was whole on the disk is kept when the next start finds a layer of it
// damaged, and the layer alone is fetched again, at the next container or by Check.
func TestLostLayerAtStart(t *testing.T) {
	damages := map[string]func(dir string) error{
		"nothing left": os.RemoveAll,
		"no record":    func(dir string) error { return os.Remove(filepath.Join(dir, "layer.json")) },
		"torn record":  func(dir string) error { return os.Truncate(filepath.Join(dir, "layer.json"), 10) },
		"no tree":      func(dir string) error { return os.RemoveAll(filepath.Join(dir, "diff")) },
	}
	repairs := map[string]func(t *testing.T, s *Service, id string, lower digest.Digest){
		"container": func(*testing.T, *Service, string, digest.Digest) {},
		"check": func(t *testing.T, s *Service, _ string, lower digest.Digest) {
			expectState(t, check(t, s, CheckOptions{}), "layer "+lower.String(), CheckDamaged)
			expectState(t, check(t, s, CheckOptions{Repair: true}), "layer "+lower.String(), CheckRepaired)
		},
		"pull": func(t *testing.T, s *Service, id string, _ digest.Digest) {
			mustPull(t, s, status(t, s, id).RepoTags[0])
		},
	}
	for what, damage := range damages {
		for by, repair := range repairs {
			t.Run(what+", "+by, func(t *testing.T) {
				s, r := newService(t, discardBlobs), newRegistry(t)
				i, lower, upper := twoLayers()
				id := mustPull(t, s, push(t, r, "app", "1", i))
				if _, err := s.store.Sync(bg); err != nil {
					t.Fatal(err)
				}
				dir := filepath.Dir(s.store.Diff(lower.DiffID))
				s.Close()
				if err := damage(dir); err != nil {
					t.Fatal(err)
				}
				again, err := New(s.opts)
				if err != nil {
					t.Fatal(err)
				}
				defer again.Close()
				if _, err := again.ImageStatus(bg, &runtimeapi.ImageSpec{Image: id}, true); err != nil || status(t, again, id) == nil {
					t.Fatalf("the image is forgotten: %v", err)
				}
				repair(t, again, id, lower.DiffID)
				root := mount(t, again, "c", id)
				if got := read(t, root, "other") + read(t, root, "top"); got != "othertop" {
					t.Errorf("%q", got)
				}
				for l, want := range map[digest.Digest]int{lower.Descriptor.Digest: 2, upper.Descriptor.Digest: 1} {
					if n := len(r.Requests("blobs/" + l.String())); n != want {
						t.Errorf("%s was fetched %d times, want %d", l, n, want)
					}
				}
				removeAll(t, again, "c", id)
				expectNoSuperseded(t, again)
				expectEmpty(t, again)
			})
		}
	}
}

// What is lost is found when a container is to be made, and fetched again alone, once.
func TestLostLayerAtCreate(t *testing.T) {
	s, r := newService(t, discardBlobs), newRegistry(t)
	i, lower, upper := twoLayers()
	id := mustPull(t, s, push(t, r, "app", "1", i))
	if err := os.RemoveAll(filepath.Dir(s.store.Diff(lower.DiffID))); err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	var wg sync.WaitGroup
	for _, c := range []string{"a", "b", "c", "d"} {
		t.Cleanup(func() { _ = s.RemoveRootfs(bg, c) })
		wg.Go(func() {
			if err := s.MountRootfs(bg, c, id, filepath.Join(base, c), "", ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, c := range []string{"a", "d"} {
		if got := read(t, filepath.Join(base, c), "other"); got != "other" {
			t.Errorf("%q", got)
		}
	}
	for l, want := range map[digest.Digest]int{lower.Descriptor.Digest: 2, upper.Descriptor.Digest: 1} {
		if n := len(r.Requests("blobs/" + l.String())); n != want {
			t.Errorf("%s was fetched %d times, want %d", l, n, want)
		}
	}
	if target, err := s.MountImage(bg, "a", id, "", ""); err != nil || read(t, target, "other") != "other" {
		t.Error(err)
	}
}

func TestLostLayerWithoutRegistry(t *testing.T) {
	s, r := newService(t, discardBlobs), newRegistry(t)
	i, lower, _ := twoLayers()
	id := mustPull(t, s, push(t, r, "app", "1", i))
	r.Close()
	if err := os.RemoveAll(filepath.Dir(s.store.Diff(lower.DiffID))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := s.MountRootfs(bg, "c", id, filepath.Join(t.TempDir(), "m"), "", "")
		if err == nil || !strings.Contains(err.Error(), lower.DiffID.String()) || !strings.Contains(err.Error(), r.Host) {
			t.Errorf("%v", err)
		}
	}
	if ids, err := s.Rootfs(bg); err != nil || len(ids) != 0 {
		t.Errorf("%v, %v", ids, err)
	}
	f := check(t, s, CheckOptions{Repair: true})["layer "+lower.DiffID.String()]
	if f.State != CheckDamaged || !strings.HasPrefix(f.Detail, "not repaired: ") {
		t.Errorf("%+v", f)
	}
	removeAll(t, s, "c", id)
	expectEmpty(t, s)
	expectNoSuperseded(t, s)
}

func TestCheckDocuments(t *testing.T) {
	for _, file := range []string{"record.json", "config.json", "manifest.json"} {
		t.Run(file, func(t *testing.T) {
			s, r := newService(t), newRegistry(t)
			i, _, _ := twoLayers()
			id := mustPull(t, s, push(t, r, "app", "1", i))
			path := filepath.Join(s.store.Root(), "images", strings.TrimPrefix(id, "sha256:"), file)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			content[len(content)/2] ^= 1
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			expectState(t, check(t, s, CheckOptions{}), "image "+id, CheckDamaged)
			expectState(t, check(t, s, CheckOptions{Repair: true}), "image "+id, CheckRepaired)
			expectState(t, check(t, s, CheckOptions{}), "image "+id, CheckIntact)
			again, err := New(s.opts)
			if err != nil {
				t.Fatal(err)
			}
			if status(t, again, r.Host+"/app:1") == nil {
				t.Error("the image is not there after a restart")
			}
		})
	}
}

// Without an inventory nothing can be said, but all can be fetched again.
func TestCheckWithoutInventory(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	i, lower, _ := twoLayers()
	mustPull(t, s, push(t, r, "app", "1", i))
	check(t, s, CheckOptions{})
	if err := os.WriteFile(filepath.Join(filepath.Dir(s.store.Diff(lower.DiffID)), "inventory"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	what := "layer " + lower.DiffID.String()
	expectState(t, check(t, s, CheckOptions{}), what, CheckUnverified)
	expectState(t, check(t, s, CheckOptions{Repair: true}), what, CheckRepaired)
	expectState(t, check(t, s, CheckOptions{}), what, CheckIntact)
	if err := s.Check(bg, CheckOptions{Images: []string{"none"}}, nil); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
}

func discardBlobs(o *Options) { o.DiscardBlobs = true }

// With the blobs on the node, all is proven and repaired without the registry.
func TestRepairFromKeptBlobs(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	i, lower, upper := twoLayers()
	id := mustPull(t, s, push(t, r, "app", "1", i))
	r.Close()
	low, up := "layer "+lower.DiffID.String(), "layer "+upper.DiffID.String()
	for what, f := range check(t, s, CheckOptions{}) {
		if f.State != CheckIntact || f.Kind == CheckLayer && f.Detail != "as its DiffID says" {
			t.Errorf("%s: %+v", what, f)
		}
	}
	spoil(t, s, lower, "dir/file")
	if err := os.RemoveAll(filepath.Dir(s.store.Diff(upper.DiffID))); err != nil {
		t.Fatal(err)
	}
	found := check(t, s, CheckOptions{Repair: true})
	expectState(t, found, low, CheckRepaired)
	expectState(t, found, up, CheckRepaired)
	found = check(t, s, CheckOptions{Quick: true})
	expectState(t, found, low, CheckIntact)
	expectState(t, found, up, CheckIntact)
	root := mount(t, s, "c", id)
	if got := read(t, root, "dir/file") + read(t, root, "top"); got != strings.Repeat("good", 5000)+"top" {
		t.Errorf("%d bytes", len(got))
	}
	removeAll(t, s, "c", id)
	expectEmpty(t, s)
	expectNoSuperseded(t, s)
}

// An inventory that was taken of a layer which was wrong already is found out.
func TestProofAgainstBlob(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	i, lower, _ := twoLayers()
	mustPull(t, s, push(t, r, "app", "1", i))
	spoil(t, s, lower, "dir/file") // before Sync has seen it
	what := "layer " + lower.DiffID.String()
	expectState(t, check(t, s, CheckOptions{Quick: true}), what, CheckIntact)
	expectState(t, check(t, s, CheckOptions{}), what, CheckDamaged)
	expectState(t, check(t, s, CheckOptions{Repair: true}), what, CheckRepaired)
	expectState(t, check(t, s, CheckOptions{}), what, CheckIntact)
}

func TestCheckBlobs(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	i, lower, _ := twoLayers()
	mustPull(t, s, push(t, r, "app", "1", i))
	content, _ := i.Manifest()
	for _, d := range []digest.Digest{lower.Descriptor.Digest, digest.FromBytes(content), digest.Digest(i.ID())} {
		path := s.store.Content().Path(d)
		if err := os.Truncate(path, 10); err != nil {
			t.Fatal(err)
		}
		what := "blob " + d.String()
		expectState(t, check(t, s, CheckOptions{Quick: true}), what, CheckDamaged)
		expectState(t, check(t, s, CheckOptions{Repair: true}), what, CheckRepaired)
		expectState(t, check(t, s, CheckOptions{}), what, CheckIntact)
	}
}
