package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Reconcile removes what is on the disk and on no record, what could not be removed
// when it should have been, and the superseded layers whose users are gone. After a
// start and in the usual run there is nothing to do: it is for errors of the disk and
// for what other hands have put there. It looks at directories, never into layers.
func (s *Store) Reconcile(ctx context.Context) error {
	var failed []error
	for _, stray := range []func() ([]string, error){s.strayLayers, s.strayImages, s.strayRootfs, s.strayVolumes, s.unusedSuperseded} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		trash, err := stray()
		failed = append(failed, err)
		for _, dir := range trash {
			s.noteStuck(dir)
		}
	}
	failed = append(failed, s.Sweep())
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("reconcile the store: %w", err)
	}
	return nil
}

// strays takes those names of a directory away that nothing knows.
func (s *Store) strays(dir string, known func(name string) bool) ([]string, error) {
	list, err := os.ReadDir(s.path(dir))
	if err != nil {
		return nil, err
	}
	var trash []string
	var failed []error
	for _, e := range list {
		if known(e.Name()) || isTemp(e.Name()) {
			continue
		}
		at, err := s.toTrash(s.path(dir, e.Name()))
		switch {
		case errors.Is(err, os.ErrNotExist): // its owner was quicker
		case err != nil:
			failed = append(failed, err)
		default:
			s.log.Warn("remove what no record knows", "path", s.path(dir, e.Name()))
			trash = append(trash, at)
		}
	}
	return trash, errors.Join(failed...)
}

// strayLayers and strayImages hold commit: what comes and goes there does so under it.
func (s *Store) strayLayers() ([]string, error) {
	s.commit.Lock()
	defer s.commit.Unlock()
	return s.strays(layersDir, knownDigest(s, s.layers))
}

func (s *Store) strayImages() ([]string, error) {
	s.commit.Lock()
	defer s.commit.Unlock()
	return s.strays(imagesDir, knownDigest(s, s.images))
}

func (s *Store) strayVolumes() ([]string, error) {
	s.commit.Lock()
	defer s.commit.Unlock()
	return s.strays(volumesDir, knownDigest(s, s.volumes))
}

// strayRootfs needs no lock: a container is on record before it has a directory, and
// its ID never comes again.
func (s *Store) strayRootfs() ([]string, error) {
	return s.strays(rootfsDir, s.knownRootfs)
}

// knownDigest tells whether a name is the hexadecimal part of a key of the map.
func knownDigest[V any](s *Store, m map[digest.Digest]V) func(string) bool {
	return func(name string) bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			if _, ok := m[digest.NewDigestFromEncoded(algorithm, name)]; ok {
				return true
			}
		}
		return false
	}
}

// unusedSuperseded takes away the superseded layers whose users are gone.
func (s *Store) unusedSuperseded() ([]string, error) {
	s.commit.Lock()
	defer s.commit.Unlock()
	s.mu.RLock()
	all := map[string][]string{}
	for dir, old := range s.superseded {
		all[dir] = old.Users
	}
	s.mu.RUnlock()
	for dir, users := range all {
		if left := s.still(users); len(left) == 0 {
			s.mu.Lock()
			delete(s.superseded, dir)
			s.mu.Unlock()
		}
	}
	return s.strays(supersededDir, func(name string) bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		_, ok := s.superseded[name]
		return ok
	})
}

// Superseded are the directories of superseded layers with the number of their users.
func (s *Store) Superseded() map[string]int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := map[string]int{}
	for dir, old := range s.superseded {
		all[dir] = len(slices.Compact(old.Users))
	}
	return all
}
