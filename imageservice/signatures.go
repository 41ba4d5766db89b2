package imageservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/policy"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/registry"
)

// Limits of what a registry may hand out as signatures of one image.
const (
	maxSignatures    = 64
	maxSignatureSize = 1 << 20
)

// signatures are the signatures of a manifest, or of the index that led to it, that a
// repository has in either of cosign's forms. One that cannot be read is left out: it
// proves nothing.
type signatures struct {
	repo *registry.Repository
	ref  reference.Reference
	// report is told of what was left out.
	report func(error)
	found  []policy.Signature
}

// collect looks for the signatures of a digest.
func (s *signatures) collect(ctx context.Context, subject digest.Digest) error {
	if err := s.collectTag(ctx, subject); err != nil {
		return fmt.Errorf("look for signatures of %s: %w", subject, err)
	}
	if err := s.collectReferrers(ctx, subject); err != nil {
		return fmt.Errorf("look for signatures of %s: %w", subject, err)
	}
	return nil
}

// collectTag takes the older form: an image with a tag made of the digest, each layer
// of which is a signature.
func (s *signatures) collectTag(ctx context.Context, subject digest.Digest) error {
	m, err := s.manifest(ctx, signatureTag(s.ref, subject))
	if err != nil || m == nil {
		return err
	}
	for _, layer := range m.Layers {
		if layer.MediaType != policy.SimpleSigningType || len(s.found) == maxSignatures {
			continue
		}
		payload, err := s.repo.Blob(ctx, layer.Digest, layer.Size, maxSignatureSize)
		if err != nil {
			return err
		}
		signature, err := policy.FromSimpleSigning(subject, payload, layer.Annotations)
		if err != nil {
			s.report(fmt.Errorf("signature %s: %w", layer.Digest, err))
			continue
		}
		s.found = append(s.found, signature)
	}
	return nil
}

func signatureTag(repo reference.Reference, subject digest.Digest) reference.Reference {
	repo.Tag, repo.Digest = subject.Algorithm().String()+"-"+subject.Encoded()+".sig", ""
	return repo
}

// collectReferrers takes the newer form: bundles that refer to the digest.
func (s *signatures) collectReferrers(ctx context.Context, subject digest.Digest) error {
	referrers, err := s.repo.Referrers(ctx, subject, policy.BundleType, manifest.MaxSize)
	if err != nil {
		return err
	}
	for _, r := range referrers {
		m, err := s.manifest(ctx, s.ref.WithDigest(r.Digest))
		if err != nil {
			return err
		}
		if m == nil || len(m.Layers) != 1 || len(s.found) == maxSignatures {
			continue
		}
		content, err := s.repo.Blob(ctx, m.Layers[0].Digest, m.Layers[0].Size, maxSignatureSize)
		if err != nil {
			return err
		}
		if !json.Valid(content) {
			s.report(fmt.Errorf("signature %s: is not JSON", r.Digest))
			continue
		}
		s.found = append(s.found, policy.Signature{Subject: subject, Bundle: content})
	}
	return nil
}

// manifest fetches the manifest of an artifact; nil if there is none.
func (s *signatures) manifest(ctx context.Context, ref reference.Reference) (*ocispec.Manifest, error) {
	var m ocispec.Manifest
	_, err := s.repo.Manifest(ctx, ref, manifest.MaxSize, func(d registry.Document) error {
		if err := json.Unmarshal(d.Content, &m); err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		for _, l := range m.Layers {
			if err := l.Digest.Validate(); err != nil {
				return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
			}
		}
		return nil
	})
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &m, nil
}
