package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobDir keeps the registry's blobs as files. The library's handler of that kind computes
// a blob's digest anew before each answer, which the pull that is measured would wait for.
type blobDir string

func (d blobDir) path(h v1.Hash) string { return filepath.Join(string(d), h.Algorithm, h.Hex) }

// Stat is the size of a blob in bytes.
func (d blobDir) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	info, err := os.Stat(d.path(h))
	if errors.Is(err, os.ErrNotExist) {
		return 0, registry.ErrNotFound
	} else if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Get opens a blob, as a file, which the kernel can send by itself.
func (d blobDir) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	file, err := os.Open(d.path(h))
	if errors.Is(err, os.ErrNotExist) {
		return nil, registry.ErrNotFound
	}
	return file, err
}

// Put keeps a blob; content has the digest h, or its reader says that it has not.
func (d blobDir) Put(_ context.Context, _ string, h v1.Hash, content io.ReadCloser) error {
	if err := os.MkdirAll(filepath.Dir(d.path(h)), 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(string(d), "upload-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("keep blob %s: %w", h, err)
	}
	return os.Rename(file.Name(), d.path(h))
}
