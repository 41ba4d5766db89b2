package imageservice

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/archive"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/policy"
)

// loadedSignatures are those of an archive, by the digest that they are of.
type loadedSignatures struct {
	manifests map[digest.Digest]bool // that are signatures and no images
	found     map[digest.Digest][]policy.Signature
}

// signatures finds the manifests of a layout that hold signatures, in either of cosign's
// forms. One that cannot be read is left out: it proves nothing.
func (l *loading) signatures(images []archive.Image) (*loadedSignatures, error) {
	s := &loadedSignatures{manifests: map[digest.Digest]bool{}, found: map[digest.Digest][]policy.Signature{}}
	for _, image := range images {
		raw, err := l.a.Blob(context.Background(), image.Top.Digest, image.Top.Size, manifest.MaxSize)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", called(image), err)
		}
		var m ocispec.Manifest
		if json.Unmarshal(raw, &m) != nil {
			continue // the error is the image's
		}
		switch {
		case m.ArtifactType == policy.BundleType && m.Subject != nil:
			s.manifests[image.Top.Digest] = true
			l.bundles(s, &m)
		case len(m.Layers) > 0 && m.Layers[0].MediaType == policy.SimpleSigningType:
			s.manifests[image.Top.Digest] = true
			l.simple(s, &m)
		}
	}
	return s, nil
}

// small reads the blob of a signature; nil if that cannot be.
func (l *loading) small(d ocispec.Descriptor) []byte {
	if d.Digest.Validate() != nil {
		return nil
	}
	raw, err := l.a.Blob(context.Background(), d.Digest, d.Size, maxSignatureSize)
	if err != nil {
		l.s.log.Warn("a signature is left out", "signature", d.Digest, "error", err)
		return nil
	}
	return raw
}

func (l *loading) bundles(s *loadedSignatures, m *ocispec.Manifest) {
	if len(m.Layers) != 1 || m.Subject.Digest.Validate() != nil {
		return
	}
	if raw := l.small(m.Layers[0]); json.Valid(raw) {
		s.add(policy.Signature{Subject: m.Subject.Digest, Bundle: raw})
	}
}

// simple takes the older form. What a signature is of, its payload says.
func (l *loading) simple(s *loadedSignatures, m *ocispec.Manifest) {
	for _, layer := range m.Layers {
		raw := l.small(layer)
		var payload struct {
			Critical struct {
				Image struct {
					Digest digest.Digest `json:"docker-manifest-digest"`
				} `json:"image"`
			} `json:"critical"`
		}
		if json.Unmarshal(raw, &payload) != nil || payload.Critical.Image.Digest.Validate() != nil {
			continue
		}
		signature, err := policy.FromSimpleSigning(payload.Critical.Image.Digest, raw, layer.Annotations)
		if err != nil {
			l.s.log.Warn("a signature is left out", "signature", layer.Digest, "error", err)
			continue
		}
		s.add(signature)
	}
}

func (s *loadedSignatures) add(signature policy.Signature) {
	if have := s.found[signature.Subject]; len(have) < maxSignatures {
		s.found[signature.Subject] = append(have, signature)
	}
}

func (s *loadedSignatures) has(d digest.Digest) bool { return s.manifests[d] }

// attach gives an image the signatures of its manifest and of the index that led to it.
func (s *loadedSignatures) attach(r *resolved) error {
	all := s.found[r.top]
	if r.manifest.Digest != r.top {
		all = append(all[:len(all):len(all)], s.found[r.manifest.Digest]...)
	}
	if len(all) == 0 {
		return nil
	}
	var err error
	r.signatures, err = json.Marshal(all)
	return err
}
