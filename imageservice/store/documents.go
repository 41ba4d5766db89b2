package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/tree"
)

// Manifest returns an image's manifest as it came. The error is ErrDamagedDocument
// when it is not that any more.
func (s *Store) Manifest(img *Image) ([]byte, error) {
	content, err := os.ReadFile(s.imagePath(img.ID, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("manifest of image %s: %w: %w", img.ID, err, ErrDamagedDocument)
	}
	if got := img.ManifestDigest.Algorithm().FromBytes(content); got != img.ManifestDigest {
		return nil, fmt.Errorf("manifest of image %s has digest %s, not %s: %w", img.ID, got, img.ManifestDigest, ErrDamagedDocument)
	}
	return content, nil
}

// ConfigDocument returns the configuration of an image to run as it came. The error is
// ErrDamagedDocument when it is not that any more.
func (s *Store) ConfigDocument(img *Image) ([]byte, error) {
	content, err := os.ReadFile(s.imagePath(img.ID, configFile))
	if err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w: %w", img.ID, err, ErrDamagedDocument)
	}
	if got := img.ID.Algorithm().FromBytes(content); got != img.ID {
		return nil, fmt.Errorf("configuration of image %s has digest %s: %w", img.ID, got, ErrDamagedDocument)
	}
	return content, nil
}

// ErrDamagedDocument marks a record, configuration or manifest on the disk that is not
// what it should be.
var ErrDamagedDocument = fmt.Errorf("the document is damaged: %w", errdefs.ErrDataLoss)

// CheckImage reads what the disk has of an image beside its layers. The error is
// ErrDamagedDocument when something of it is damaged, nil for an image that is gone.
func (s *Store) CheckImage(id digest.Digest) error {
	img, err := s.ByID(id.String())
	if err != nil {
		return nil
	}
	if _, err := s.readImage(id.Encoded()); err != nil {
		err = fmt.Errorf("%w: %w", err, ErrDamagedDocument)
		if _, gone := s.ByID(id.String()); gone != nil {
			return nil
		}
		return err
	}
	if img.ManifestDigest == "" {
		return nil
	}
	_, err = s.Manifest(img)
	return err
}

// RewriteImage writes an image's documents and its record anew, in the place of
// damaged ones.
func (s *Store) RewriteImage(id digest.Digest, config, manifest []byte) error {
	s.commit.Lock()
	defer s.commit.Unlock()
	img, err := s.ByID(id.String())
	if err != nil {
		return err
	}
	identity := config
	if img.Artifact != "" {
		identity = manifest
	}
	if err := img.clone().setConfig(config, identity); err != nil {
		return fmt.Errorf("rewrite image %s: %w", id, err)
	}
	dir := s.imagePath(id)
	if st, err := os.Lstat(dir); err != nil || !st.IsDir() {
		if err := tree.RemovePath(filepath.Dir(dir), filepath.Base(dir)); err != nil {
			return err
		}
		err = s.writeImage(img, config, manifest)
		return named(err)
	}
	err = errors.Join(
		replaceDurably(filepath.Join(dir, configFile), config),
		replaceDurably(filepath.Join(dir, manifestFile), manifest),
		rewriteRecord(filepath.Join(dir, imageFile), imageKind, img))
	if err != nil {
		return fmt.Errorf("rewrite image %s: %w", id, named(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsyncedImages[id] = true
	return nil
}
