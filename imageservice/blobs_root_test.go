package imageservice

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// blobSet lists the blobs that the store has, and fails if one of them is damaged.
func blobSet(t *testing.T, s *Service) map[digest.Digest]bool {
	t.Helper()
	list, err := s.store.Content().List()
	if err != nil {
		t.Fatal(err)
	}
	set := map[digest.Digest]bool{}
	for _, b := range list {
		set[b.Digest] = true
		if err := s.store.Content().Verify(b.Digest); err != nil {
			t.Error(err)
		}
		if s.store.BlobRefs(b.Digest) == 0 {
			t.Errorf("nothing refers to blob %s", b.Digest)
		}
	}
	return set
}

func wantBlobs(t *testing.T, s *Service, want ...digest.Digest) {
	t.Helper()
	set := blobSet(t, s)
	for _, d := range want {
		if !set[d] {
			t.Errorf("blob %s is not kept", d)
		}
		delete(set, d)
	}
	for d := range set {
		t.Errorf("blob %s is kept", d)
	}
}

func manifestDigest(i *imagetest.Image) digest.Digest {
	raw, _ := i.Manifest()
	return digest.FromBytes(raw)
}

func someLayer(name string) imagetest.Layer {
	return imagetest.NewLayer(imagetest.Tar(imagetest.File(name, name, 0o644)), imagetest.Gzip)
}

func TestBlobsLiveAsLongAsTheirImages(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	shared, own, other := someLayer("shared"), someLayer("own"), someLayer("other")
	a, b := imagetest.New(shared, own), imagetest.New(shared, other)
	index := &imagetest.Index{Images: []*imagetest.Image{a}}
	indexRaw, _ := index.Manifest()
	name, err := r.PushIndex("test/a", "1", index)
	if err != nil {
		t.Fatal(err)
	}
	idA := mustPull(t, s, name)
	idB := mustPull(t, s, push(t, r, "test/b", "1", b))
	top := digest.FromBytes(indexRaw)
	all := []digest.Digest{top, manifestDigest(a), digest.Digest(idA), shared.Descriptor.Digest, own.Descriptor.Digest, manifestDigest(b), digest.Digest(idB), other.Descriptor.Digest}
	wantBlobs(t, s, all...)

	img, err := s.store.ByName(mustRef(t, name))
	if err != nil {
		t.Fatal(err)
	}
	if src, ok := img.Source(mustRef(t, name)); !ok || src.Top.Digest != top || src.Manifest.Digest != manifestDigest(a) {
		t.Errorf("source %+v, %v", src, ok)
	}
	blob, err := s.store.Content().Open(own.Descriptor.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if got, err := io.ReadAll(blob); err != nil || !bytes.Equal(got, own.Blob) {
		t.Errorf("the blob is not the registry's: %v", err)
	}
	for _, id := range []string{idA, idB} {
		if err := s.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: id}); err != nil {
			t.Fatal(err)
		}
		if id == idA {
			wantBlobs(t, s, shared.Descriptor.Digest, manifestDigest(b), digest.Digest(idB), other.Descriptor.Digest)
		}
	}
	wantBlobs(t, s)
}

func mustRef(t *testing.T, name string) string {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

func TestBlobsSurviveARestart(t *testing.T) {
	var o Options
	s, r := newService(t, func(now *Options) { o.Root = now.Root }), newRegistry(t)
	image := imagetest.New(someLayer("x"))
	id := mustPull(t, s, push(t, r, "test/a", "1", image))
	s.Close()
	again, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	wantBlobs(t, again, digest.Digest(id), manifestDigest(image), image.Layers[0].Descriptor.Digest)
}

func TestLayerBlobsAreDiscardedOnDemand(t *testing.T) {
	s, r := newService(t, func(o *Options) { o.DiscardBlobs = true }), newRegistry(t)
	image := imagetest.New(someLayer("x"))
	id := mustPull(t, s, push(t, r, "test/a", "1", image))
	wantBlobs(t, s, digest.Digest(id), manifestDigest(image))
}

func TestMovedTagLeavesNoBlobs(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	image := imagetest.New(someLayer("x"))
	idx := &imagetest.Index{Images: []*imagetest.Image{image}}
	name, err := r.PushIndex("test/a", "1", idx)
	if err != nil {
		t.Fatal(err)
	}
	id := mustPull(t, s, name)
	// The same image, now without an index: the name by digest still leads to that.
	push(t, r, "test/a", "1", image)
	mustPull(t, s, name)
	raw, _ := idx.Manifest()
	wantBlobs(t, s, digest.Digest(id), manifestDigest(image), image.Layers[0].Descriptor.Digest, digest.FromBytes(raw))
	if err := s.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: id}); err != nil {
		t.Fatal(err)
	}
	wantBlobs(t, s)
}
