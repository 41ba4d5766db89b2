package imageservice

import (
	"context"

	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// emptyJSON is what many artifacts have as configuration or in place of content (OCI
// image-spec, "Guidance for an Empty Descriptor").
const emptyJSON = "{}"

var emptyDigest = digest.FromString(emptyJSON)

// source tells the store which blobs the image is made of.
func (r *resolved) source() store.Source {
	src := store.Source{
		Manifest: ocispec.Descriptor{MediaType: r.mediaType, Digest: r.manifest.Digest, Size: int64(len(r.manifest.Content))},
		Config:   r.image.Config, Layers: r.image.Layers,
	}
	for _, doc := range r.indexes {
		src.Indexes = append(src.Indexes, ocispec.Descriptor{MediaType: doc.MediaType, Digest: doc.Digest, Size: int64(len(doc.Content))})
	}
	src.Top = append(src.Indexes[:len(src.Indexes):len(src.Indexes)], src.Manifest)[0]
	return src
}

// keepDocuments keeps the indexes, the manifest and the configuration as they came.
// The image does not need them to run: what cannot be kept is left out.
func (s *Service) keepDocuments(ctx context.Context, r *resolved, blobs blobReader, lease *store.Lease) {
	keep := func(d digest.Digest, content []byte) {
		if err := lease.PutBlob(d, content); err != nil {
			s.log.Warn("a blob cannot be kept", "blob", d, "error", err)
		}
	}
	for _, doc := range append(r.indexes[:len(r.indexes):len(r.indexes)], r.manifest) {
		keep(doc.Digest, doc.Content)
	}
	for _, desc := range append([]ocispec.Descriptor{r.image.Config}, r.image.Layers...) {
		if desc.Digest == emptyDigest {
			keep(desc.Digest, []byte(emptyJSON))
		}
	}
	switch config := r.image.Config; {
	case r.artifact == "":
		keep(config.Digest, r.config)
	case !lease.HoldBlob(config.Digest):
		raw, err := blobs.Blob(ctx, config.Digest, config.Size, manifest.MaxConfigSize)
		if err != nil {
			s.log.Warn("a blob cannot be kept", "blob", config.Digest, "error", err)
			return
		}
		keep(config.Digest, raw)
	}
}

// blobReader fetches a small blob and verifies it.
type blobReader interface {
	Blob(ctx context.Context, d digest.Digest, size, limit int64) ([]byte, error)
}

var _ blobReader = (*registry.Repository)(nil)

// hasDocuments tells whether all documents that the name leads to were kept.
func (s *Service) hasDocuments(img *store.Image, ref string) bool {
	src, ok := img.Source(ref)
	if !ok {
		return false
	}
	for _, d := range src.Documents() {
		if !s.store.Content().Has(d.Digest) {
			return false
		}
	}
	return true
}
