package imageservice

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/policy"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
)

// errNoSource tells that nobody knows where something could be fetched from.
var errNoSource = fmt.Errorf("no image on this node tells where to fetch it from: %w", errdefs.ErrFailedPrecondition)

// refetch gets one layer again, from where an image that has it came from. commit is
// as in layerRequest. The layer's content is the one of its digests, whoever serves
// it; credentials are the node's own, since those of the pull are not kept.
func (s *Service) refetch(ctx context.Context, id digest.Digest, lease *store.Lease, commit func(*store.Ingest, store.Layer) error) error {
	var tried []error
	for _, img := range s.store.Images() {
		index := slices.Index(img.Layers, id)
		if index < 0 {
			continue
		}
		err := s.refetchKept(ctx, img, index, lease, commit)
		if err == nil || ctx.Err() != nil || errors.Is(err, errdefs.ErrResourceExhausted) {
			return err
		}
		err = s.atSources(ctx, img, func(repo *registry.Repository, ref reference.Reference) error {
			r, err := s.remembered(ctx, img, repo, ref)
			if err != nil {
				return err
			}
			return s.refetchFrom(ctx, repo, r, index, lease, commit)
		})
		if err == nil || ctx.Err() != nil || errors.Is(err, errdefs.ErrResourceExhausted) {
			return err
		}
		tried = append(tried, err)
	}
	if len(tried) == 0 {
		return errNoSource
	}
	return errors.Join(tried...)
}

// atSources calls f with each repository that a name of the image means until it
// succeeds. Names that the image policy has come to deny are left out.
func (s *Service) atSources(ctx context.Context, img *store.Image, f func(*registry.Repository, reference.Reference) error) error {
	var tried []error
	seen := map[string]bool{}
	for _, name := range img.Refs() {
		ref, err := reference.Parse(name)
		if err != nil || seen[ref.Domain+"/"+ref.Path] {
			continue
		}
		seen[ref.Domain+"/"+ref.Path] = true
		if s.admission.policy().Decide(ref, "").Action == policy.Deny {
			continue
		}
		ref = ref.WithDigest(img.ManifestDigest)
		p := &pull{s: s, ref: ref, spec: &runtimeapi.ImageSpec{}}
		repo, err := p.open(ctx)
		if err == nil {
			err = f(repo, ref)
			repo.Close()
		}
		if err == nil || ctx.Err() != nil || errors.Is(err, errdefs.ErrResourceExhausted) {
			return err
		}
		tried = append(tried, fmt.Errorf("from %s: %w", ref, err))
	}
	if len(tried) == 0 {
		return errNoSource
	}
	return errors.Join(tried...)
}

// remembered is what a pull of the image had found out, from the manifest that was
// kept, or from the registry, if there is one, when that is damaged.
func (s *Service) remembered(ctx context.Context, img *store.Image, repo *registry.Repository, ref reference.Reference) (*resolved, error) {
	content, err := s.store.Manifest(img)
	if err != nil && repo == nil {
		return nil, err
	}
	if err != nil {
		doc, rerr := repo.Manifest(ctx, ref, manifest.MaxSize, nil)
		if rerr != nil {
			return nil, errors.Join(err, rerr)
		}
		content = doc.Content
	}
	parsed, err := manifest.Parse(content, img.MediaType)
	if err != nil {
		return nil, err
	}
	if parsed.Image == nil {
		return nil, fmt.Errorf("the manifest of image %s is an index: %w", img.ID, errdefs.ErrDataLoss)
	}
	r := &resolved{
		manifest:  registry.Document{Content: content, MediaType: img.MediaType, Digest: img.ManifestDigest},
		mediaType: img.MediaType, layers: parsed.Image.Layers, id: img.ID, diffIDs: img.Config.RootFS.DiffIDs,
	}
	if parsed.Artifact != "" {
		r.diffIDs = nil
		if err := r.describeArtifact(parsed); err != nil {
			return nil, err
		}
	}
	if len(r.layers) != len(img.Layers) || len(r.diffIDs) != len(img.Layers) {
		return nil, fmt.Errorf("the manifest of image %s has %d layers, its configuration %d: %w", img.ID, len(r.layers), len(img.Layers), errdefs.ErrDataLoss)
	}
	if err := s.unlock(r); err != nil {
		return nil, err
	}
	if !slices.Equal(r.ids, img.Layers) {
		return nil, fmt.Errorf("the manifest of image %s is about other layers: %w", img.ID, errdefs.ErrDataLoss)
	}
	return r, nil
}

func (s *Service) refetchFrom(ctx context.Context, repo *registry.Repository, r *resolved, index int, lease *store.Lease, commit func(*store.Ingest, store.Layer) error) error {
	desc := r.layers[index]
	req := layerRequest{
		repo: repo, desc: desc, id: r.ids[index], key: r.keys[index], lease: lease, commit: commit,
		bar: &layerBar{digest: desc.Digest.String(), size: desc.Size},
	}
	if r.artifact != "" {
		req.file = &r.files[index]
	} else {
		req.diffID = r.diffIDs[index]
	}
	if commit == nil {
		return s.getLayer(ctx, req)
	}
	return s.fetchLayer(ctx, req)
}
