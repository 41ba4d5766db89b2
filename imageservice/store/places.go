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

	"github.com/berth-cri/berth/imageservice/tree"
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

// placesRecord is what is noted in the root directory. Directories below that are
// noted as seen from it, so that it can be moved and copied with them.
type placesRecord struct {
	ID       string `json:"id"`
	Images   string `json:"images"`
	Writable string `json:"writable"`
}

func (p Places) withDefaults() Places {
	p.Images, p.Writable = cmp.Or(p.Images, p.Root), cmp.Or(p.Writable, p.Root)
	return p
}

// noted is how a directory is written down, at where a written one is.
func (p Places) noted(dir string) string {
	if rel, err := filepath.Rel(p.Root, dir); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return dir
}

func (p Places) at(noted string) string {
	if filepath.IsAbs(noted) {
		return noted
	}
	return filepath.Join(p.Root, noted)
}

// settle makes sure that the directories are those of the last time, or that nothing
// is left in the ones before: what was there would neither be found nor removed. A
// directory whose file system is not mounted is found out by its mark, so that no
// second store begins below a mountpoint. A directory with the mark and what the mark
// is for was moved or copied, and is taken up. The error is errdefs.ErrFailedPrecondition.
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
	now := placesRecord{Images: p.noted(p.Images), Writable: p.noted(p.Writable)}
	if err != nil {
		last = placesRecord{ID: rand.Text(), Images: ".", Writable: "."}
		if errors.Is(err, errDamaged) {
			last = now
			last.ID = cmp.Or(mark(p.Images), mark(p.Writable), rand.Text())
		}
		// The ID is on the disk before it marks anything.
		if err := p.note(path, last); err != nil {
			return err
		}
	}
	for _, d := range []struct{ what, last, now string }{
		{"images", p.at(last.Images), p.Images}, {"writable layers", p.at(last.Writable), p.Writable},
	} {
		if err := p.settleDir(d.what, d.last, d.now, last.ID); err != nil {
			return err
		}
	}
	now.ID = last.ID
	if now == last {
		return nil
	}
	return p.note(path, now)
}

// note replaces the record; unlike others it is waited for.
func (p Places) note(path string, rec placesRecord) error {
	if err := rewriteRecord(path, placesKind, rec); err != nil {
		return err
	}
	return tree.SyncDir(p.Root)
}

func (p Places) settleDir(what, last, now, id string) error {
	if last != now && (mark(now) != id || populated(what, now) == 0) {
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
	if err := replaceDurably(filepath.Join(now, markFile), []byte(id+"\n")); err != nil {
		return err
	}
	return tree.SyncDir(now)
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
