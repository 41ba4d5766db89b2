package main

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// What the images that are cut from a tree consist of.
const (
	manyLayers    = 12
	manyLayerSize = 24 << 20
	smallFiles    = 40_000
	smallFileMost = 4 << 10
	smallFileDirs = 400
)

// pullCase is one image to pull.
type pullCase struct {
	name  string
	parts []string // compressed archives, one for each layer
}

// pullCases packs what -pull-tree names: the tree in three layers, the first of it in
// twelve, the same in one, and one layer of small files, whose content is of it too.
func pullCases(r *imageRegistry, name, dir string) ([]pullCase, error) {
	pieces, err := r.cutTree(dir, manyLayers, manyLayerSize)
	if err != nil {
		return nil, err
	}
	whole, err := r.cutTree(dir, 1, manyLayers*manyLayerSize)
	if err != nil {
		return nil, err
	}
	small, err := r.packSmallFiles(dir)
	if err != nil {
		return nil, err
	}
	tree, err := r.packTree(dir)
	if err != nil {
		return nil, err
	}
	return []pullCase{
		{name, tree},
		{fmt.Sprintf("%d layers of %d MiB", manyLayers, manyLayerSize>>20), pieces},
		{fmt.Sprintf("one layer of %d MiB", manyLayers*manyLayerSize>>20), whole},
		{fmt.Sprintf("one layer of %d files", smallFiles), []string{small}},
	}, nil
}

// cutTree packs the beginning of a directory as layers of size bytes each, less for the
// last ones where there is not enough.
func (r *imageRegistry) cutTree(dir string, layers int, size int64) ([]string, error) {
	paths, _, err := walkTree(dir)
	if err != nil {
		return nil, err
	}
	var parts []string
	for range layers {
		part, err := r.pack(func(w *tar.Writer) error {
			rest, err := writeTree(w, dir, paths, size, false)
			paths = rest
			return err
		})
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// packSmallFiles packs files of up to 4 KiB, the same ones every time, with pieces of the
// tree's largest file as content: so that they compress as programs and libraries do.
func (r *imageRegistry) packSmallFiles(dir string) (string, error) {
	content, err := largestFile(dir)
	if err != nil {
		return "", err
	}
	random := rand.New(rand.NewPCG(1, 2))
	return r.pack(func(w *tar.Writer) error {
		for i := range smallFiles {
			size := 1 + random.IntN(smallFileMost)
			at := random.IntN(len(content) - size)
			header := &tar.Header{Name: fmt.Sprintf("srv/%03d/file-%05d", i%smallFileDirs, i), Mode: 0o644, Size: int64(size)}
			if err := w.WriteHeader(header); err != nil {
				return err
			}
			if _, err := w.Write(content[at : at+size]); err != nil {
				return err
			}
		}
		return nil
	})
}

func largestFile(dir string) ([]byte, error) {
	paths, _, err := walkTree(dir)
	if err != nil {
		return nil, err
	}
	largest, most := "", int64(0)
	for _, path := range paths {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() > most {
			largest, most = path, info.Size()
		}
	}
	if most <= smallFileMost {
		return nil, fmt.Errorf("tree %s has no file of more than %d bytes", filepath.Base(dir), smallFileMost)
	}
	return os.ReadFile(largest)
}
