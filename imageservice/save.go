package imageservice

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/archive"
	"github.com/berth-cri/berth/imageservice/encryption"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/store"
)

// ErrDiscarded marks an image that cannot leave the node because its layers were not
// kept as they came. It comes with errdefs.ErrFailedPrecondition.
var ErrDiscarded = fmt.Errorf("it was not kept as it came: set images.keepBlobs and pull or load the image with all its layers again: %w", errdefs.ErrFailedPrecondition)

// leaving is an image that goes out under one name, or none.
type leaving struct {
	image *store.Image
	src   store.Source
	ref   *reference.Reference
}

// leave finds the images that names mean, with the lease holding their blobs. An image
// that is named by ID goes out under all its tags.
func (s *Service) leave(names []string, lease *store.Lease) ([]leaving, error) {
	var list []leaving
	for _, name := range names {
		img, err := s.lookup(name)
		if err != nil {
			return nil, err
		}
		for _, ref := range leavingNames(img, name) {
			key := ""
			if ref != nil {
				key = ref.String()
			}
			src, ok := img.Source(key)
			if !ok {
				return nil, fmt.Errorf("image %q: its manifest: %w", name, ErrDiscarded)
			}
			if err := held(src, lease); err != nil {
				return nil, fmt.Errorf("image %q: %w", name, err)
			}
			list = append(list, leaving{image: img, src: src, ref: ref})
		}
	}
	return list, nil
}

// leavingNames is the name itself, or for an ID the tags of the image.
func leavingNames(img *store.Image, name string) []*reference.Reference {
	if ref, err := reference.Parse(name); err == nil && slices.Contains(img.Refs(), ref.String()) {
		return []*reference.Reference{&ref}
	}
	var refs []*reference.Reference
	for _, text := range img.Refs() {
		if ref, err := reference.Parse(text); err == nil && ref.Tag != "" {
			refs = append(refs, &ref)
		}
	}
	if len(refs) == 0 {
		return []*reference.Reference{nil}
	}
	return refs
}

// held takes all blobs of an image into the lease, and names the first that is missing.
func held(src store.Source, lease *store.Lease) error {
	for _, d := range src.Documents() {
		if !lease.HoldBlob(d.Digest) {
			return fmt.Errorf("document %s: %w", d.Digest, ErrDiscarded)
		}
	}
	for i, d := range src.Layers {
		if !lease.HoldBlob(d.Digest) {
			return fmt.Errorf("layer %d (%s): %w", i, d.Digest, ErrDiscarded)
		}
	}
	return nil
}

// Save writes images as an archive to w: an OCI layout, in which all digests are the
// original ones, or with docker what docker load takes. Names are anything that a user may
// call an image. Nothing is written if a blob is missing, which is ErrDiscarded.
func (s *Service) Save(ctx context.Context, w io.Writer, names []string, docker bool) (err error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	defer end()
	if len(names) == 0 {
		return fmt.Errorf("save images: no image is named: %w", errdefs.ErrInvalidArgument)
	}
	lease := s.store.Lease()
	defer func() {
		if rerr := lease.Release(); rerr != nil {
			s.log.Warn("release the blobs of saved images", "error", rerr)
		}
	}()
	images, err := s.leave(names, lease)
	if err == nil {
		out := archive.NewWriter(cancelled{ctx, w})
		if docker {
			err = s.saveDocker(out, images)
		} else {
			err = s.saveLayout(out, images)
		}
		if err == nil {
			err = out.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	return nil
}

// cancelled is a writer that ends with its context.
type cancelled struct {
	ctx context.Context
	w   io.Writer
}

func (c cancelled) Write(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.w.Write(p)
}

func (s *Service) saveLayout(out *archive.Writer, images []leaving) error {
	var named []archive.Named
	for _, i := range images {
		for _, d := range append(i.src.Documents(), i.src.Layers...) {
			if err := s.saveBlob(out, d); err != nil {
				return err
			}
		}
		named = append(named, archive.Named{Top: i.src.Top, Ref: i.ref})
	}
	return out.Layout(named)
}

func (s *Service) saveBlob(out *archive.Writer, d ocispec.Descriptor) error {
	b, err := s.store.Content().Open(d.Digest)
	if err != nil {
		return err
	}
	defer b.Close()
	return out.Blob(d.Digest, b)
}

func (s *Service) saveDocker(out *archive.Writer, images []leaving) error {
	var list []archive.DockerImage
	for _, i := range images {
		if i.image.Artifact != "" {
			return fmt.Errorf("image %s is an artifact, which no docker archive holds: %w", i.image.ID, errdefs.ErrInvalidArgument)
		}
		entry := archive.DockerImage{Config: i.src.Config.Digest.Encoded() + ".json"}
		if i.ref != nil && i.ref.Tag != "" {
			entry.Tags = []string{familiar(*i.ref)}
		}
		config, err := s.store.Content().Open(i.src.Config.Digest)
		if err != nil {
			return err
		}
		err = out.File(entry.Config, config.Size(), config.Reader(i.src.Config.Digest))
		config.Close()
		if err != nil {
			return err
		}
		for n, d := range i.src.Layers {
			name, err := s.saveInflated(out, d, i.image, n)
			if err != nil {
				return fmt.Errorf("layer %d: %w", n, err)
			}
			entry.Layers = append(entry.Layers, name)
		}
		list = append(list, entry)
	}
	return out.Docker(list)
}

// familiar is how docker writes names of its own registry.
func familiar(ref reference.Reference) string {
	name, ours := strings.CutPrefix(ref.String(), reference.DefaultDomain+"/")
	if ours {
		name = strings.TrimPrefix(name, "library/")
	}
	return name
}

// saveInflated writes a layer without compression, as docker's archives have them.
func (s *Service) saveInflated(out *archive.Writer, d ocispec.Descriptor, img *store.Image, n int) (string, error) {
	if encryption.Encrypted(d) {
		return "", fmt.Errorf("it is encrypted, which only an OCI layout can hold: %w", errdefs.ErrInvalidArgument)
	}
	l, err := s.store.Layer(img.Layers[n])
	if err != nil {
		return "", err
	}
	diffID := cmp.Or(l.Archive, l.DiffID)
	b, err := s.store.Content().Open(d.Digest)
	if err != nil {
		return "", err
	}
	defer b.Close()
	plain, end, err := archive.Inflate(b, diffID)
	if err != nil {
		return "", err
	}
	defer end()
	name := diffID.Encoded() + ".tar"
	return name, out.File(name, l.TarSize, plain)
}
