package store

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// Places are the directories of a store.
type Places struct {
	Root string // where it is noted which the others are
	// Images is that of images and layers, Writable that of the containers' writable
	// layers; Root by default.
	Images, Writable string
}

const (
	placesFile = "places.json"
	placesKind = "places"
	// markFile tells that a directory is the one that the root directory means.
	markFile = "berth-storage"
)

// placesRecord is what is noted in the root directory.
type placesRecord struct {
	ID       string `json:"id"`
	Images   string `json:"images"`
	Writable string `json:"writable"`
}

func (p Places) withDefaults() Places {
	p.Images, p.Writable = cmp.Or(p.Images, p.Root), cmp.Or(p.Writable, p.Root)
	return p
}

// settle makes sure that the directories are those of the last time, or that nothing
// is left in the ones before: what was there would neither be found nor removed. A
// directory whose file system is not mounted is found out by its mark, so that no
// second store begins below a mountpoint. The error is errdefs.ErrFailedPrecondition.
func (p Places) settle() error {
	for _, dir := range []string{p.Root, p.Images, p.Writable} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	path := filepath.Join(p.Root, placesFile)
	var last placesRecord
	err := readRecord(path, placesKind, &last)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errDamaged) {
		return err
	}
	if err != nil {
		last = placesRecord{ID: rand.Text(), Images: p.Root, Writable: p.Root}
		if errors.Is(err, errDamaged) {
			last.Images, last.Writable = p.Images, p.Writable
			last.ID = cmp.Or(mark(p.Images), mark(p.Writable), last.ID)
		}
		// The ID is known before it marks anything.
		if err := writeRecord(path, placesKind, last); err != nil {
			return err
		}
	}
	for _, d := range []struct{ what, last, now string }{
		{"images", last.Images, p.Images}, {"writable layers", last.Writable, p.Writable},
	} {
		if err := p.settleDir(d.what, d.last, d.now, last.ID); err != nil {
			return err
		}
	}
	now := placesRecord{ID: last.ID, Images: p.Images, Writable: p.Writable}
	if now == last {
		return nil
	}
	return writeRecord(path, placesKind, now)
}

func (p Places) settleDir(what, last, now, id string) error {
	if last != now {
		if n := populated(what, last); n > 0 {
			return fmt.Errorf("the directory of %s is now %s, but %s holds %d of them: remove or move them, or set it back: %w", what, now, last, n, errdefs.ErrFailedPrecondition)
		}
	}
	if now == p.Root {
		return nil
	}
	switch got := mark(now); {
	case got == id:
		return nil
	case got != "":
		return fmt.Errorf("the directory of %s, %s, belongs to another root directory than %s: %w", what, now, p.Root, errdefs.ErrFailedPrecondition)
	case last == now:
		return fmt.Errorf("the directory of %s, %s, is not the one of the last time: is its file system mounted? To begin anew there, remove %s: %w",
			what, now, filepath.Join(p.Root, placesFile), errdefs.ErrFailedPrecondition)
	}
	return replaceFile(filepath.Join(now, markFile), []byte(id+"\n"))
}

// mark is the ID in a directory, "" for none.
func mark(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, markFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// populated counts what the store has in a directory.
func populated(what, dir string) int {
	parts := []string{imagesDir, layersDir}
	if what != "images" {
		parts = []string{rootfsDir}
	}
	n := 0
	for _, part := range parts {
		list, _ := os.ReadDir(filepath.Join(dir, part)) // that is not there has nothing
		n += len(list)
	}
	return n
}
