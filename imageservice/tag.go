package imageservice

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/imageservice/reference"
)

// Tag gives an image another name, which it takes away from the image that had it, and
// returns the whole name. The image stays as it is, and so do containers of the other.
// name is anything that a user may call an image. It is idempotent.
func (s *Service) Tag(_ context.Context, name, tag string) (id, ref string, err error) {
	img, err := s.lookup(name)
	if err != nil {
		return "", "", fmt.Errorf("tag image: %w", err)
	}
	to, err := reference.Parse(tag)
	if err == nil && to.Digest != "" {
		err = fmt.Errorf("name %q has a digest, which only a registry gives: %w", tag, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return "", "", fmt.Errorf("tag image %q: %w", name, err)
	}
	from := name
	if parsed, err := reference.Parse(name); err == nil {
		from = parsed.String()
	}
	if err := s.store.NameImage(img.ID, to.String(), from); err != nil {
		return "", "", fmt.Errorf("tag image %q: %w", name, err)
	}
	s.markDirty()
	s.log.Info("tagged image", "id", img.ID, "name", to.String())
	return img.ID.String(), to.String(), nil
}

// Untag takes a name away from the image that has it, and returns that image's ID and the
// whole name. The image stays, even without any name: it is removed by its ID, or by the
// kubelet when no container uses it. A name that no image has is errdefs.ErrNotFound.
func (s *Service) Untag(_ context.Context, name string) (id, ref string, err error) {
	parsed, err := reference.Parse(name)
	if err != nil {
		return "", "", fmt.Errorf("untag image: %w", err)
	}
	image, err := s.store.UnnameImage(parsed.String())
	if err != nil {
		return "", "", fmt.Errorf("untag image: %w", err)
	}
	s.markDirty()
	s.log.Info("untagged image", "id", image, "name", parsed.String())
	return image.String(), parsed.String(), nil
}
