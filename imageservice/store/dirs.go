package store

import (
	"github.com/opencontainers/go-digest"
)

// Dir is one of the store's directories, for who explains what is in them.
type Dir struct {
	Path string
	// Kind is that of what is in it and not Known.
	Kind string
	// Known tells of a name in it that the records know; nil for none.
	Known func(name string) bool
}

// Dirs are all of the store's directories.
func (s *Store) Dirs() []Dir {
	const orphan, ingest, damaged, record = "orphan", "ingest", "damaged", "record"
	all := []Dir{
		{s.path(imagesDir), orphan, knownDigest(s, s.images)},
		{s.path(layersDir), orphan, knownDigest(s, s.layers)},
		{s.path(rootfsDir), orphan, s.knownRootfs},
		{s.path(volumesDir), "volume", nil},
		{s.path(supersededDir), damaged, nil},
		{s.path(ingestDir), ingest, nil},
		{s.path(partialDir), "partial", nil},
		{s.path(damagedDir), damaged, nil},
		{s.path(emptyDir), orphan, nil},
		{s.path(blobsDir), record, isAlgorithm},
	}
	if s.writable != s.root {
		all = append(all, Dir{s.writable + "/" + ingestDir, ingest, nil})
	}
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		all = append(all, Dir{s.path(blobsDir, algorithm.String()), orphan, func(name string) bool {
			return digest.NewDigestFromEncoded(algorithm, name).Validate() == nil
		}})
	}
	return all
}

func isAlgorithm(name string) bool {
	return name == digest.SHA256.String() || name == digest.SHA512.String()
}

func (s *Store) knownRootfs(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.rootfs[name]
	return ok
}

// Roots are the directories that the store's own are in.
func (s *Store) Roots() []string {
	if s.writable == s.root {
		return []string{s.root}
	}
	return []string{s.root, s.writable}
}

// Owns tells whether a path in one of Roots is a directory of the store.
func (s *Store) Owns(path string) bool {
	for _, dir := range s.Dirs() {
		if dir.Path == path {
			return true
		}
	}
	return false
}

// ImageDir is the directory of an image's documents.
func (s *Store) ImageDir(id digest.Digest) string { return s.imagePath(id) }
