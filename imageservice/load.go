package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berth-cri/berth/imageservice/archive"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
)

// LoadOptions say how an archive is read. Zero values mean the defaults.
type LoadOptions struct {
	// Repository is that of images of which the archive has only the tag.
	Repository string
	// Platform to choose from indexes; the service's own by default.
	Platform *ocispec.Platform
	// Progress, when not nil, is told each image as its layers are unpacked.
	Progress func(name string)

	// from is the file of a watched folder, which pins the images.
	from *store.Import
}

// Loaded is an image that came from an archive.
type Loaded struct {
	ID    string
	Names []string
}

// Load reads images from an archive: an OCI layout or docker save's, as tar, which may be
// compressed. All blobs are verified. Either all images of the archive are there when it
// returns nil, or nothing is kept of it. Signatures in a layout are kept with the images
// that they are of; whether an image may run, the image policy says when a container is
// made.
//
// Errors are archive.ErrInvalid, those of layers, errdefs.ErrNotFound when no image is for
// the platform, and errdefs.ErrResourceExhausted.
func (s *Service) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]Loaded, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	defer end()
	a, err := archive.Read(ctx, r, s.store.Content())
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	defer a.Close()
	l := &loading{s: s, a: a, o: o, platform: s.platform, lease: s.store.Lease()}
	if o.Platform != nil {
		l.platform = *o.Platform
	}
	loaded, err := l.run(ctx)
	if err = errors.Join(err, l.lease.Release()); err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	s.markDirty()
	return loaded, nil
}

// begin takes part in the service's life: the context it returns ends with the service
// too, which waits until end is called.
func (s *Service) begin(ctx context.Context) (working context.Context, end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pullCtx.Err() != nil {
		return nil, nil, context.Cause(s.pullCtx)
	}
	s.running.Add(1)
	working, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.pullCtx, func() { cancel(context.Cause(s.pullCtx)) })
	return working, func() {
		stop()
		cancel(nil)
		s.running.Done()
	}, nil
}

// loading is one call of Load.
type loading struct {
	s        *Service
	a        *archive.Archive
	o        LoadOptions
	platform ocispec.Platform
	lease    *store.Lease
}

// arrived is an image of which all is in the lease.
type arrived struct {
	*resolved
	refs []reference.Reference
}

func (l *loading) run(ctx context.Context) ([]Loaded, error) {
	images, err := l.a.Images()
	if err != nil {
		return nil, err
	}
	signatures, err := l.signatures(images)
	if err != nil {
		return nil, err
	}
	var ready []arrived
	var others []error // that are for other platforms
	for _, image := range images {
		if signatures.has(image.Top.Digest) {
			continue
		}
		r, err := l.image(ctx, image)
		if errors.Is(err, errdefs.ErrNotFound) {
			others = append(others, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", called(image), err)
		}
		if err := signatures.attach(r.resolved); err != nil {
			return nil, err
		}
		ready = append(ready, r)
	}
	if len(ready) == 0 {
		return nil, errors.Join(append(others, fmt.Errorf("no image in the archive is for %s: %w", manifest.Format(l.platform), errdefs.ErrNotFound))...)
	}
	if l.o.from != nil {
		ids := map[digest.Digest]bool{}
		for _, r := range ready {
			ids[r.id] = true
		}
		l.o.from.Images = len(ids)
	}
	var loaded []Loaded
	for _, r := range ready {
		names, err := l.record(r)
		if err != nil {
			return nil, err
		}
		loaded = append(loaded, Loaded{ID: r.id.String(), Names: names})
		l.s.log.Info("loaded image", "id", r.id, "names", names)
	}
	return loaded, nil
}

// called is what errors call an image of an archive.
func called(i archive.Image) string {
	if names := append(i.Names[:len(i.Names):len(i.Names)], i.Tags...); len(names) > 0 {
		return names[0]
	}
	return i.Top.Digest.String()
}

// image brings one image into the lease.
func (l *loading) image(ctx context.Context, i archive.Image) (arrived, error) {
	refs, err := i.References(l.o.Repository)
	if err != nil {
		return arrived{}, err
	}
	r, err := l.resolve(ctx, i.Top)
	if err != nil {
		return arrived{}, err
	}
	if err := l.s.unlock(r); err != nil {
		return arrived{}, err
	}
	if l.o.Progress != nil {
		l.o.Progress(called(i))
	}
	if err := l.layers(ctx, r); err != nil {
		return arrived{}, err
	}
	l.s.keepDocuments(ctx, r, l.a, l.lease)
	return arrived{resolved: r, refs: refs}, l.keepLayers(r)
}

// resolve follows a descriptor to the manifest for the platform and its configuration.
func (l *loading) resolve(ctx context.Context, next ocispec.Descriptor) (*resolved, error) {
	r := &resolved{top: next.Digest}
	for depth := 0; depth <= manifest.MaxIndexDepth; depth++ {
		raw, err := l.a.Blob(ctx, next.Digest, next.Size, manifest.MaxSize)
		if err != nil {
			return nil, err
		}
		parsed, err := manifest.Parse(raw, next.MediaType)
		if err != nil {
			return nil, err
		}
		doc := registry.Document{Content: raw, MediaType: parsed.MediaType, Digest: next.Digest}
		if parsed.Image != nil {
			return r, l.describe(ctx, r, doc, parsed)
		}
		r.indexes = append(r.indexes, doc)
		// An archive need not have the images of all platforms.
		parsed.Index.Manifests = slices.DeleteFunc(parsed.Index.Manifests, func(d ocispec.Descriptor) bool { return !l.a.Has(d.Digest) })
		if next, err = manifest.Choose(parsed.Index, l.platform); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("indexes are nested more than %d deep: %w", manifest.MaxIndexDepth, errdefs.ErrInvalidArgument)
}

// describe takes the manifest, and the configuration that it names.
func (l *loading) describe(ctx context.Context, r *resolved, doc registry.Document, parsed manifest.Document) error {
	r.manifest, r.mediaType, r.image = doc, parsed.MediaType, parsed.Image
	r.layers, r.annotations = parsed.Image.Layers, parsed.Image.Annotations
	if parsed.Artifact != "" {
		return r.describeArtifact(parsed)
	}
	r.id = parsed.Image.Config.Digest
	var err error
	if r.config, err = l.a.Blob(ctx, r.id, parsed.Image.Config.Size, manifest.MaxConfigSize); err != nil {
		return err
	}
	config, err := manifest.ParseConfig(r.config, len(r.layers))
	if err != nil {
		return err
	}
	r.diffIDs = config.DiffIDs
	return manifest.CheckPlatform(config.Image, l.platform)
}

// layers unpacks the layers that the store does not have.
func (l *loading) layers(ctx context.Context, r *resolved) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(l.s.opts.ParallelLayers)
	for i, desc := range r.layers {
		req := layerRequest{desc: desc, id: r.ids[i], key: r.keys[i], bar: &layerBar{}, lease: l.lease, local: l.open}
		if r.artifact != "" {
			req.file = &r.files[i]
		} else {
			req.diffID = r.diffIDs[i]
		}
		g.Go(func() error {
			if err := l.s.getLayer(ctx, req); err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (l *loading) open(desc ocispec.Descriptor) (io.ReadCloser, error) {
	w, err := l.a.Writer(desc.Digest)
	if err != nil {
		return nil, err
	}
	if w.Size() != desc.Size {
		return nil, fmt.Errorf("blob %s has %d bytes, its manifest says %d: %w", desc.Digest, w.Size(), desc.Size, archive.ErrInvalid)
	}
	return w.Open()
}

// keepLayers moves the layers' blobs into the content store, as they came.
func (l *loading) keepLayers(r *resolved) error {
	if l.s.opts.DiscardBlobs {
		return nil
	}
	for _, desc := range r.layers {
		if l.lease.HoldBlob(desc.Digest) {
			continue
		}
		w, err := l.a.Writer(desc.Digest)
		if err != nil {
			continue // the layer was there, and this archive does not have it
		}
		if _, err := l.lease.Commit(w); err != nil {
			return err
		}
	}
	return nil
}

// record names the image, and returns the names.
func (l *loading) record(r arrived) ([]string, error) {
	var names []string
	for _, ref := range r.refs {
		names = append(names, ref.String())
		if byDigest := ref.WithDigest(r.top).String(); !slices.Contains(names, byDigest) {
			names = append(names, byDigest)
		}
	}
	image := r.record(time.Now())
	if l.o.from != nil {
		image.Imports = []store.Import{*l.o.from}
	}
	return names, l.s.store.PutImage(image, names, r.config, r.manifest.Content)
}
