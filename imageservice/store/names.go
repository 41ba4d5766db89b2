package store

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// NameImage gives an image the name ref, which leads where its name from does and which
// it takes away from other images. It is idempotent.
func (s *Store) NameImage(id digest.Digest, ref, from string) error {
	return s.changeImage(id, func(img *Image) error {
		src, _ := img.Source(from) // an image without one has names that lead nowhere
		img.Names = s.nextNames(id, []string{ref})
		if len(img.Names) > maxNames {
			return fmt.Errorf("it has %d names already: %w", maxNames, errdefs.ErrResourceExhausted)
		}
		img.Names[len(img.Names)-1].Top = src.Top.Digest
		return nil
	})
}

// UnnameImage takes a name away from the image that has it, which stays, and returns the
// image's ID, or errdefs.ErrNotFound.
func (s *Store) UnnameImage(ref string) (digest.Digest, error) {
	img, err := s.ByName(ref)
	if err != nil {
		return "", err
	}
	return img.ID, s.changeImage(img.ID, func(img *Image) error {
		n := len(img.Names)
		img.Names = slices.DeleteFunc(img.Names, func(n Name) bool { return n.Ref == ref })
		if len(img.Names) == n {
			return fmt.Errorf("it is not called %q any more: %w", ref, errdefs.ErrNotFound)
		}
		return nil
	})
}

// DropImports takes the files of watched folders that are over off an image's record.
func (s *Store) DropImports(id digest.Digest, over func(Import) bool) error {
	return s.changeImage(id, func(img *Image) error {
		img.Imports = slices.DeleteFunc(img.Imports, over)
		return nil
	})
}

// changeImage records what change makes of an image, in which the layers have to stay.
func (s *Store) changeImage(id digest.Digest, change func(*Image) error) error {
	s.commit.Lock()
	trash, err := s.changeLocked(id, change)
	if derr := s.disposeBlobs(trash); derr != nil {
		s.log.Warn("remove blobs that no image has any more", "error", derr)
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	return nil
}

// changeLocked returns the blobs that nothing refers to any more. commit is held.
func (s *Store) changeLocked(id digest.Digest, change func(*Image) error) ([]digest.Digest, error) {
	old, err := s.ByID(id.String())
	if err != nil {
		return nil, err
	}
	img := old.clone()
	if err := change(img); err != nil {
		return nil, err
	}
	img.dropSources()
	if err := rewriteRecord(s.imagePath(id, imageFile), imageKind, img); err != nil {
		return nil, err
	}
	return s.show(img, nil), nil
}
