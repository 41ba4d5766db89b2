package imageservice

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/policy"
)

// tops are the entries of the layout's index.
func (f files) tops(t *testing.T) []ocispec.Descriptor {
	t.Helper()
	var index ocispec.Index
	if err := json.Unmarshal(f["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	return index.Manifests
}

// attach adds the manifest of a signature, with a blob for each layer that has content.
func (f files) attach(t *testing.T, m ocispec.Manifest, contents ...[]byte) {
	t.Helper()
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	m.Config = ocispec.DescriptorEmptyJSON
	for i, content := range contents {
		m.Layers[i].Digest, m.Layers[i].Size = f.blob(content), int64(len(content))
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	top := ocispec.Descriptor{MediaType: m.MediaType, Digest: f.blob(raw), Size: int64(len(raw))}
	f.index(append(f.tops(t), top)...)
}

// signSimply attaches a signature of d in cosign's older form.
func (f files) signSimply(s signer, d digest.Digest) {
	payload, annotations := s.simple(d)
	f.attach(s.t, ocispec.Manifest{Layers: []ocispec.Descriptor{{MediaType: policy.SimpleSigningType, Annotations: annotations}}}, payload)
}

// signWithBundle attaches one in the newer form.
func (f files) signWithBundle(s signer, d digest.Digest) {
	f.attach(s.t, bundleOf(d), s.bundle(d))
}

func bundleOf(d digest.Digest) ocispec.Manifest {
	return ocispec.Manifest{
		ArtifactType: policy.BundleType, Subject: &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 1},
		Layers: []ocispec.Descriptor{{MediaType: policy.BundleType}},
	}
}

// indexed puts the one image of the layout behind an index.
func (f files) indexed(t *testing.T, i *imagetest.Image) digest.Digest {
	t.Helper()
	raw, mediaType := (&imagetest.Index{Images: []*imagetest.Image{i}}).Manifest()
	top := f.tops(t)[0]
	top.MediaType, top.Digest, top.Size = mediaType, f.blob(raw), int64(len(raw))
	f.index(top)
	return top.Digest
}

func TestSignaturesInLayouts(t *testing.T) {
	right, wrong := newSigner(t), newSigner(t)
	image := imagetest.New(someLayer("signed"))
	subject, other := image.Digest(), digest.FromString("another image")
	for name, c := range map[string]struct {
		sign  func(t *testing.T, f files)
		admit bool
	}{
		"the older form":                         {func(_ *testing.T, f files) { f.signSimply(right, subject) }, true},
		"the newer form":                         {func(_ *testing.T, f files) { f.signWithBundle(right, subject) }, true},
		"of the index":                           {func(t *testing.T, f files) { f.signWithBundle(right, f.indexed(t, image)) }, true},
		"under the index":                        {func(t *testing.T, f files) { f.indexed(t, image); f.signSimply(right, subject) }, true},
		"one of several":                         {func(_ *testing.T, f files) { f.signSimply(wrong, subject); f.signWithBundle(right, subject) }, true},
		"none":                                   {func(*testing.T, files) {}, false},
		"of another key":                         {func(_ *testing.T, f files) { f.signSimply(wrong, subject); f.signWithBundle(wrong, subject) }, false},
		"of another image":                       {func(_ *testing.T, f files) { f.signSimply(right, other); f.signWithBundle(right, other) }, false},
		"a bundle that says it is of this image": {func(t *testing.T, f files) { f.attach(t, bundleOf(subject), right.bundle(other)) }, false},
		"content that is not in the layout": {func(t *testing.T, f files) {
			m := bundleOf(subject)
			m.Layers[0].Digest, m.Layers[0].Size = digest.FromString("missing"), 7
			f.attach(t, m)
		}, false},
		"content that is no signature": {func(t *testing.T, f files) {
			f.attach(t, bundleOf(subject), []byte("{"))
			f.attach(t, bundleOf(subject), []byte("{}"))
			f.attach(t, ocispec.Manifest{Layers: []ocispec.Descriptor{{MediaType: policy.SimpleSigningType}}}, []byte("[]"))
			payload, _ := right.simple(subject)
			f.attach(t, ocispec.Manifest{Layers: []ocispec.Descriptor{{MediaType: policy.SimpleSigningType}}}, payload)
		}, false},
		"content that is too large": {func(t *testing.T, f files) {
			f.attach(t, bundleOf(subject), append(right.bundle(subject), strings.Repeat(" ", maxSignatureSize)...))
		}, false},
		"more than are kept": {func(_ *testing.T, f files) {
			for range maxSignatures {
				f.signSimply(wrong, subject) // ECDSA: each is another one
			}
			f.signSimply(right, subject)
		}, false},
		"a subject that is no digest": {func(t *testing.T, f files) { f.attach(t, bundleOf("sha256:x"), right.bundle(subject)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, func(o *Options) { o.PolicyFile = verifyAll(t, "r.example", right.publicKey()) })
			f := layout(map[string]*imagetest.Image{"r.example/app/x:1": image})
			c.sign(t, f)
			loaded, err := load(s, f.tar())
			if err != nil || len(loaded) != 1 || loaded[0].ID != image.ID() {
				t.Fatalf("%+v, %v", loaded, err)
			}
			err = s.Admit(context.Background(), image.ID(), "r.example/app/x:1", "")
			if c.admit && err != nil || !c.admit && !errors.Is(err, errdefs.ErrPermissionDenied) {
				t.Errorf("admit: %v", err)
			}
		})
	}
}

// Signatures alone are no image, and an image that comes again without its signatures keeps
// those that it has.
func TestSignaturesStayWithTheirImage(t *testing.T) {
	k := newSigner(t)
	s := newService(t, func(o *Options) { o.PolicyFile = verifyAll(t, "r.example", k.publicKey()) })
	image := imagetest.New(someLayer("signed"))
	plain := layout(map[string]*imagetest.Image{"r.example/app/x:1": image})
	signed := maps.Clone(plain)
	signed.signSimply(k, image.Digest())
	alone := maps.Clone(signed)
	alone.index(slices.DeleteFunc(alone.tops(t), func(d ocispec.Descriptor) bool { return d.Digest == image.Digest() })...)
	if _, err := load(s, alone.tar()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("signatures alone: %v", err)
	}
	wantNothing(t, s)
	for _, f := range []files{signed, plain} {
		if _, err := load(s, f.tar()); err != nil {
			t.Fatal(err)
		}
		if err := s.Admit(context.Background(), image.ID(), "r.example/app/x:1", ""); err != nil {
			t.Error(err)
		}
	}
}
