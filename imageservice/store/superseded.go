package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/tree"
)

const (
	supersededDir      = "superseded"
	supersededLayerDir = "layer"
	supersededFile     = "users.json"
	supersededKind     = "superseded layer"
)

// supersededLayer is a layer that a repaired one has taken the place of. Containers
// that were made before have it mounted: nothing in it may change under them, and it
// stays until the last of them is gone.
type supersededLayer struct {
	DiffID digest.Digest `json:"diffID"`
	BootID string        `json:"bootID"`
	// Users are containers, and images that are mounted as volumes.
	Users []string `json:"users"`
	// Pending tells that the users are not known yet: all who refer to the layer.
	Pending bool `json:"pending,omitempty"`
}

// Replace puts the layer that was unpacked in the place of the one that the store
// has, and tells how many containers and volumes go on with the old one. The caller
// holds a lease on it.
//
// The old and the new one change places in one step. A kill before it leaves the old
// one in place, one behind it leaves the new one; what is left over belongs to those
// who may use it, and goes with them.
func (in *Ingest) Replace(rec Layer) (users int, err error) {
	s := in.s
	defer in.Diff.Close()
	rec.BootID = s.bootID
	if err := writeRecord(filepath.Join(in.dir, layerFile), layerKind, rec); err != nil {
		in.Abort()
		return 0, err
	}
	s.trees.Lock()
	defer s.trees.Unlock()
	s.commit.Lock()
	defer s.commit.Unlock()
	if _, err := s.Layer(rec.DiffID); err != nil {
		in.Abort()
		return 0, fmt.Errorf("replace: %w", err)
	}
	dir, err := s.supersedeDir(rec.DiffID)
	if err == nil {
		err = os.Rename(in.dir, s.path(supersededDir, dir, supersededLayerDir))
	}
	if err != nil {
		in.Abort()
		return 0, fmt.Errorf("replace layer %s: %w", rec.DiffID, named(err))
	}
	aside := s.path(supersededDir, dir, supersededLayerDir)
	if err := unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, s.path(layersDir, rec.DiffID.Encoded()), unix.RENAME_EXCHANGE); err != nil {
		err = errors.Join(err, tree.RemovePath(s.path(supersededDir), dir))
		return 0, fmt.Errorf("replace layer %s: %w", rec.DiffID, named(err))
	}
	s.mu.Lock()
	if e, ok := s.layers[rec.DiffID]; ok {
		s.layers[rec.DiffID] = &layerEntry{rec: rec, refs: e.refs}
	}
	s.mu.Unlock()
	if err := s.settleSuperseded(dir, rec.DiffID); err != nil {
		return 0, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if old, ok := s.superseded[dir]; ok {
		users = len(old.Users)
	}
	return users, nil
}

// supersedeDir makes a directory for a layer that others may use, whoever they will
// turn out to be, and returns its name.
func (s *Store) supersedeDir(id digest.Digest) (string, error) {
	dir, err := os.MkdirTemp(s.path(supersededDir), "")
	if err != nil {
		return "", err
	}
	pending := supersededLayer{DiffID: id, BootID: s.bootID, Pending: true}
	if err := writeRecord(filepath.Join(dir, supersededFile), supersededKind, pending); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return filepath.Base(dir), nil
}

// settleSuperseded records who may use what is in the directory by now: everybody
// who comes later gets the new one. Without users it is removed.
func (s *Store) settleSuperseded(dir string, id digest.Digest) error {
	old := &supersededLayer{DiffID: id, BootID: s.bootID, Users: s.holders(id)}
	if len(old.Users) == 0 {
		return s.dropSuperseded(dir)
	}
	s.mu.Lock()
	s.superseded[dir] = old
	s.mu.Unlock()
	if err := writeRecord(s.path(supersededDir, dir, supersededFile), supersededKind, old); err != nil {
		s.log.Warn("record who uses a damaged layer", "layer", id, "error", err) // taken for all at the next start
	}
	return nil
}

// holders are the containers and volumes that refer to a layer.
func (s *Store) holders(id digest.Digest) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var users []string
	for container, e := range s.rootfs {
		if slices.Contains(e.rec.Layers, id) {
			users = append(users, containerUser(container))
		}
	}
	for image, e := range s.volumes {
		if slices.Contains(e.rec.Layers, id) {
			users = append(users, volumeUser(image))
		}
	}
	slices.Sort(users)
	return users
}

func containerUser(id string) string        { return "container " + id }
func volumeUser(image digest.Digest) string { return "volume " + image.String() }

// dropSuperseded removes what nobody uses; a failure is left to Reconcile.
func (s *Store) dropSuperseded(dir string) error {
	trash, err := s.takeAway(s.path(supersededDir, dir))
	if err != nil || trash == "" {
		return err
	}
	if err := tree.RemovePath(filepath.Dir(trash), filepath.Base(trash)); err != nil {
		s.noteStuck(trash)
		return err
	}
	return nil
}

// loadSuperseded takes up the layers that running containers may still use. Mounts do
// not outlive their kernel, so those of an earlier boot go.
func (s *Store) loadSuperseded() error {
	names, err := s.entries(supersededDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		old, err := s.readSuperseded(name)
		if err != nil {
			s.log.Debug("drop a superseded layer", "name", name, "reason", err)
			if err := s.discard(s.path(supersededDir, name)); err != nil {
				return err
			}
			continue
		}
		s.superseded[name] = old
	}
	return nil
}

func (s *Store) readSuperseded(name string) (*supersededLayer, error) {
	layer := s.path(supersededDir, name, supersededLayerDir)
	if _, err := os.Lstat(layer); err != nil {
		return nil, err
	}
	old := &supersededLayer{}
	if err := readRecord(s.path(supersededDir, name, supersededFile), supersededKind, old); err != nil {
		return nil, err
	}
	if old.Pending {
		old.Users, old.Pending = s.holders(old.DiffID), false
	}
	if old.BootID != s.bootID {
		return nil, errors.New("it is of an earlier boot")
	}
	if old.Users = s.still(old.Users); len(old.Users) == 0 {
		return nil, errors.New("nobody uses it any more")
	}
	return old, nil
}

// still are the users that are there.
func (s *Store) still(users []string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(users), func(user string) bool {
		for container := range s.rootfs {
			if user == containerUser(container) {
				return false
			}
		}
		for image := range s.volumes {
			if user == volumeUser(image) {
				return false
			}
		}
		return true
	})
}
