package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
)

// errNotKept tells that a blob is not on this node.
var errNotKept = fmt.Errorf("the blob is not kept: %w", errdefs.ErrNotFound)

// unpackKept unpacks a layer from the blob that the node has kept of it. A blob that
// turns out to be damaged is thrown away.
func (s *Service) unpackKept(ctx context.Context, r layerRequest) error {
	blob, err := s.store.Content().Open(r.desc.Digest)
	if errors.Is(err, errdefs.ErrNotFound) {
		return errNotKept
	}
	if err != nil {
		return err
	}
	defer blob.Close()
	in, err := s.store.Ingest()
	if err != nil {
		return err
	}
	res, err := r.write(ctx, blob.Once(), in.Diff, s.opts.Inflate)
	if err != nil {
		in.Abort()
		if errors.Is(err, layer.ErrCorrupt) && !errors.Is(err, layer.ErrDiffID) && ctx.Err() == nil {
			s.log.Warn("throw a damaged blob away", "blob", r.desc.Digest, "error", err)
			err = errors.Join(err, s.store.DropBlob(r.desc.Digest))
		}
		return fmt.Errorf("unpack the kept blob: %w", err)
	}
	s.counters.layers.Add(1)
	return r.finish(in, res)
}

// finish hands the layer to where it belongs.
func (r layerRequest) finish(in *store.Ingest, res layer.Result) error {
	rec := store.Layer{
		DiffID: r.id, Archive: r.archive(), Blob: r.desc.Digest, Size: r.desc.Size, TarSize: res.TarSize,
		Bytes: res.Bytes, Inodes: res.Inodes, Implied: res.Implied, OpaqueRoot: res.OpaqueRoot,
	}
	if r.commit == nil {
		return in.Commit(rec, r.lease)
	}
	return r.commit(in, rec)
}

// refetchKept is refetch without a registry, or errNotKept.
func (s *Service) refetchKept(ctx context.Context, img *store.Image, index int, lease *store.Lease, commit func(*store.Ingest, store.Layer) error) error {
	r, err := s.remembered(ctx, img, nil, reference.Reference{})
	if err != nil || !s.store.Content().Has(r.layers[index].Digest) {
		return errNotKept
	}
	return s.refetchFrom(ctx, nil, r, index, lease, commit)
}

// errOther tells that a layer is not what its blob holds.
var errOther = fmt.Errorf("the layer is not what its blob holds: %w", errdefs.ErrDataLoss)

// proveLayer unpacks the layer's blob beside it, which proves its DiffID, and compares
// inventories: the layer has been found to be as its own says. errNotKept is for a
// blob that is not there, errOther for a layer that differs.
func (s *Service) proveLayer(ctx context.Context, id digest.Digest) (err error) {
	lease := s.store.Lease()
	defer func() { err = errors.Join(err, lease.Release()) }()
	known, ok := lease.Hold(id)
	if !ok {
		return errNotKept
	}
	for _, img := range s.store.Images() {
		index := slices.Index(img.Layers, id)
		if index < 0 {
			continue
		}
		err := s.refetchKept(ctx, img, index, lease, func(in *store.Ingest, rec store.Layer) error {
			defer in.Abort()
			got, err := in.Inventory(ctx, rec)
			if err == nil && got != known.Inventory {
				return errOther
			}
			return err
		})
		if !errors.Is(err, errNotKept) {
			return err
		}
	}
	return errNotKept
}

// refetchBlob fetches a blob anew and keeps it, in the place of the damaged one.
func (s *Service) refetchBlob(ctx context.Context, d digest.Digest) (err error) {
	if err := s.store.DropBlob(d); err != nil {
		return err
	}
	lease := s.store.Lease()
	defer func() { err = errors.Join(err, lease.Release()) }()
	var tried []error
	for _, img := range s.store.Images() {
		desc, document, ok := blobOf(img, d)
		if !ok {
			continue
		}
		err := s.atSources(ctx, img, func(repo *registry.Repository, ref reference.Reference) error {
			return fetchBlob(ctx, repo, ref.WithDigest(d), desc, document, s.store, lease)
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
		tried = append(tried, err)
	}
	if len(tried) == 0 {
		return errNoSource
	}
	return errors.Join(tried...)
}

// blobOf finds a blob among those that an image is made of; document tells of an index
// or manifest.
func blobOf(img *store.Image, d digest.Digest) (_ ocispec.Descriptor, document, ok bool) {
	for _, src := range img.Sources {
		for _, doc := range append(src.Indexes[:len(src.Indexes):len(src.Indexes)], src.Manifest) {
			if doc.Digest == d {
				return doc, true, true
			}
		}
		for _, desc := range append(src.Layers[:len(src.Layers):len(src.Layers)], src.Config) {
			if desc.Digest == d {
				return desc, false, true
			}
		}
	}
	return ocispec.Descriptor{}, false, false
}

func fetchBlob(ctx context.Context, repo *registry.Repository, ref reference.Reference, desc ocispec.Descriptor, document bool, st *store.Store, lease *store.Lease) error {
	if document {
		doc, err := repo.Manifest(ctx, ref, manifest.MaxSize, nil)
		if err != nil {
			return err
		}
		return lease.PutBlob(desc.Digest, doc.Content)
	}
	stream, err := repo.Stream(ctx, registry.BlobSpec{Digest: desc.Digest, Size: desc.Size, URLs: desc.URLs})
	if err != nil {
		return err
	}
	defer stream.Close()
	w, err := st.Content().Writer(desc.Digest, desc.Size)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, stream); err != nil {
		w.Abort()
		return err
	}
	_, err = lease.Commit(w)
	return err
}
