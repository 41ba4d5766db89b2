package imageservice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/policy"
	"github.com/berth-cri/berth/imageservice/registry"
)

// simpleSignatures is the artifact type of a manifest of signatures in cosign's older form.
const simpleSignatures = "application/vnd.dev.cosign.artifact.sig.v1+json"

// pushSignatures brings the signatures that are kept of the pushed documents to the
// registry, in the form that each came in, beside those that are there.
func (p *pushing) pushSignatures(ctx context.Context, repo *registry.Repository) error {
	for _, subject := range p.documents {
		var simple []policy.Signature
		for _, s := range p.signatures {
			if s.Subject != subject.Digest {
				continue
			}
			if s.Payload != nil {
				simple = append(simple, s)
				continue
			}
			if err := pushBundle(ctx, repo, subject, s); err != nil {
				return fmt.Errorf("push a signature of %s: %w", subject.Digest, err)
			}
		}
		if len(simple) == 0 {
			continue
		}
		if err := p.pushSimple(ctx, repo, subject.Digest, simple); err != nil {
			return fmt.Errorf("push signatures of %s: %w", subject.Digest, err)
		}
	}
	return nil
}

// pushSimple writes the older form: layers of an image that is called by the subject.
func (p *pushing) pushSimple(ctx context.Context, repo *registry.Repository, subject digest.Digest, signatures []policy.Signature) error {
	tag := signatureTag(p.target, subject)
	m := artifactManifest(simpleSignatures)
	doc, err := repo.Pushed(ctx, tag, manifest.MaxSize)
	if err == nil {
		err = json.Unmarshal(doc.Content, &m)
	}
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return err
	}
	before := len(m.Layers)
	for _, s := range signatures {
		annotations, err := s.SimpleSigning()
		if err != nil {
			return err
		}
		l := ocispec.Descriptor{MediaType: policy.SimpleSigningType, Digest: digest.FromBytes(s.Payload), Size: int64(len(s.Payload)), Annotations: annotations}
		if slices.ContainsFunc(m.Layers, func(have ocispec.Descriptor) bool {
			return have.Digest == l.Digest && have.Annotations[policy.SignatureAnnotation] == annotations[policy.SignatureAnnotation]
		}) {
			continue
		}
		if err := uploadBytes(ctx, repo, s.Payload); err != nil {
			return err
		}
		m.Layers = append(m.Layers, l)
	}
	if len(m.Layers) == before {
		return nil
	}
	_, raw, err := putConfig(ctx, repo, m)
	if err != nil {
		return err
	}
	return repo.PutManifest(ctx, tag, m.MediaType, raw)
}

// pushBundle writes the newer form: a manifest that refers to the subject.
func pushBundle(ctx context.Context, repo *registry.Repository, subject ocispec.Descriptor, s policy.Signature) error {
	m := artifactManifest(policy.BundleType)
	m.Subject = &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	m.Layers = []ocispec.Descriptor{{MediaType: policy.BundleType, Digest: digest.FromBytes(s.Bundle), Size: int64(len(s.Bundle))}}
	if err := uploadBytes(ctx, repo, s.Bundle); err != nil {
		return err
	}
	desc, raw, err := putConfig(ctx, repo, m)
	if err != nil {
		return err
	}
	return repo.PutReferrer(ctx, subject.Digest, desc, raw, manifest.MaxSize)
}

func artifactManifest(kind string) ocispec.Manifest {
	return ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind,
		Config: ocispec.DescriptorEmptyJSON,
	}
}

// putConfig sees to the configuration of an artifact, and returns the manifest's bytes.
func putConfig(ctx context.Context, repo *registry.Repository, m ocispec.Manifest) (ocispec.Descriptor, []byte, error) {
	raw, err := json.Marshal(m)
	if err == nil && m.Config.Digest == ocispec.DescriptorEmptyJSON.Digest {
		err = uploadBytes(ctx, repo, ocispec.DescriptorEmptyJSON.Data)
	}
	return ocispec.Descriptor{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}, raw, err
}

func uploadBytes(ctx context.Context, repo *registry.Repository, content []byte) error {
	_, err := repo.Upload(ctx, registry.Upload{
		Digest: digest.FromBytes(content), Size: int64(len(content)), Sent: func(int64) {},
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	})
	return err
}
