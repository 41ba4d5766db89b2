package tree

import (
	"errors"
	"os"
	"path/filepath"
)

// Sync brings the regular files in a directory and its names to the disk, not what is in
// directories below.
func Sync(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := fsync(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return SyncDir(path)
}

// SyncDir brings the names in a directory to the disk.
func SyncDir(path string) error { return fsync(path) }

func fsync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
