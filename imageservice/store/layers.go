package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	layerFile  = "layer.json"
	layerKind  = "layer"
	diffDir    = "diff"
	syncedFile = "synced"
)

// Layer is the record of an unpacked layer.
type Layer struct {
	// DiffID is the digest of the archive, or for layers that have none, or must not
	// be found by it, an identity of their own.
	DiffID digest.Digest `json:"diffID"`
	// Archive is the digest of the archive where DiffID is not.
	Archive digest.Digest `json:"archive,omitempty"`
	Blob    digest.Digest `json:"blob"`     // the blob it was unpacked from
	Size    int64         `json:"blobSize"` // bytes of the blob
	TarSize int64         `json:"tarSize"`  // bytes of the archive
	Bytes   uint64        `json:"bytes"`    // allocated on disk
	Inodes  uint64        `json:"inodes"`
	// Inventory is the digest of the list of what the tree holds, "" until Sync has
	// made one.
	Inventory digest.Digest `json:"inventory,omitempty"`
	// Implied are directories whose attributes are those of a layer below, "."
	// is the root.
	Implied []string `json:"implied,omitempty"`
	// OpaqueRoot tells that nothing of the layers below shows.
	OpaqueRoot bool `json:"opaqueRoot,omitempty"`
	// BootID is that of the kernel which wrote it.
	BootID string `json:"bootID"`
}

// Diff is the directory with the tree of a layer.
func (s *Store) Diff(id digest.Digest) string {
	return s.path(layersDir, id.Encoded(), diffDir)
}

func (s *Store) loadLayers() error {
	names, err := s.entries(layersDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.dropTemporary(filepath.Join(layersDir, name)); err != nil {
			return err
		}
		if err := s.loadLayer(name); err != nil {
			s.log.Warn("drop a layer", "layer", name, "error", err)
			if err := s.discard(s.path(layersDir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadLayer takes a layer up; an error means that it cannot be trusted.
func (s *Store) loadLayer(name string) error {
	var rec Layer
	if err := readRecord(s.path(layersDir, name, layerFile), layerKind, &rec); err != nil {
		return err
	}
	if rec.DiffID.Validate() != nil || rec.DiffID.Encoded() != name {
		return fmt.Errorf("record is that of layer %q", rec.DiffID)
	}
	if st, err := os.Lstat(s.path(layersDir, name, diffDir)); err != nil || !st.IsDir() {
		return errors.New("tree is missing")
	}
	_, err := os.Lstat(s.path(layersDir, name, syncedFile))
	synced := err == nil
	if !synced && rec.BootID != s.bootID {
		return errors.New("not known to have reached the disk before the machine went down")
	}
	s.layers[rec.DiffID] = &layerEntry{rec: rec, synced: synced}
	return nil
}

// A Lease keeps layers and blobs from being removed while a pull still needs them.
type Lease struct {
	s     *Store
	held  []digest.Digest // guarded by s.mu
	blobs []digest.Digest // guarded by s.mu
}

// Lease returns an empty lease; the caller must Release it.
func (s *Store) Lease() *Lease { return &Lease{s: s} }

// Hold takes the layer into the lease and tells whether the store has it.
func (l *Lease) Hold(id digest.Digest) (Layer, bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	e, ok := l.s.layers[id]
	if !ok || e.missing {
		return Layer{}, false
	}
	e.refs++
	l.held = append(l.held, id)
	return e.rec, true
}

// Release gives up all layers and blobs of the lease and removes those that nothing
// else needs. It is idempotent.
func (l *Lease) Release() error {
	failpoint.Pass("store/lease/release")
	l.s.commit.Lock()
	l.s.mu.Lock()
	layers, blobs := l.s.unref(l.held), l.s.unrefBlobs(l.blobs)
	l.held, l.blobs = nil, nil
	l.s.mu.Unlock()
	return l.s.dispose(layers, l.s.takeBlobs(blobs)...)
}

// unref takes one reference off each of ids and returns the layers that nothing
// refers to any more, which are then no longer in the store. mu is held.
func (s *Store) unref(ids []digest.Digest) []digest.Digest {
	var trash []digest.Digest
	for _, id := range ids {
		e, ok := s.layers[id]
		if !ok {
			continue
		}
		if e.refs--; e.refs <= 0 {
			delete(s.layers, id)
			trash = append(trash, id) // whatever is left of one that is missing
		}
	}
	return trash
}

// dispose removes the trees of layers that are no longer in the store, and what
// else is in the trash. It is called with commit held, and gives it up before the
// long part.
func (s *Store) dispose(ids []digest.Digest, trash ...string) error {
	var err error
	for _, id := range ids {
		dir, terr := s.takeAway(s.path(layersDir, id.Encoded()))
		trash = append(trash, dir)
		err = errors.Join(err, terr)
	}
	s.commit.Unlock()
	failpoint.Pass("store/dispose")
	for _, dir := range trash {
		if dir == "" {
			continue
		}
		if rerr := tree.RemovePath(filepath.Dir(dir), filepath.Base(dir)); rerr != nil {
			s.noteStuck(dir)
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		return fmt.Errorf("remove layers: %w", err)
	}
	return nil
}

// dropUnreferenced removes from sight the layers of pulls that did not end.
func (s *Store) dropUnreferenced() error {
	for id, e := range s.layers {
		if e.refs > 0 {
			continue
		}
		delete(s.layers, id)
		if err := s.discard(s.path(layersDir, id.Encoded())); err != nil {
			return err
		}
	}
	return nil
}

// An Ingest is a layer that is being made.
type Ingest struct {
	s    *Store
	dir  string
	Diff *os.File // where its tree goes
}

// Ingest makes a place for a new layer. The caller must Commit or Abort it.
func (s *Store) Ingest() (*Ingest, error) {
	dir, err := os.MkdirTemp(s.path(ingestDir), "layer-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the layer: %w", named(err))
	}
	in := &Ingest{s: s, dir: dir}
	diff := filepath.Join(dir, diffDir)
	if err = failpoint.Hit("store/ingest"); err == nil {
		err = os.Mkdir(diff, 0o755)
	}
	if err == nil {
		err = os.Chmod(diff, 0o755) // whatever the umask is
	}
	if err == nil {
		in.Diff, err = os.Open(diff)
	}
	if err != nil {
		in.Abort()
		return nil, fmt.Errorf("make a directory for the layer: %w", named(err))
	}
	return in, nil
}

// Commit moves the layer into the store and into the lease. If the store has the
// same layer already, that one is kept.
func (in *Ingest) Commit(rec Layer, lease *Lease) error {
	s := in.s
	rec.BootID = s.bootID
	if err := writeRecord(filepath.Join(in.dir, layerFile), layerKind, rec); err != nil {
		in.Abort()
		return err
	}
	s.commit.Lock()
	defer s.commit.Unlock()
	if _, ok := lease.Hold(rec.DiffID); ok {
		in.Abort()
		return nil
	}
	if err := in.place(s.path(layersDir, rec.DiffID.Encoded())); err != nil {
		in.Abort()
		return fmt.Errorf("move the layer into place: %w", named(err))
	}
	failpoint.Pass("store/commit/renamed")
	in.Diff.Close()
	s.mu.Lock()
	e := &layerEntry{rec: rec, refs: 1}
	if lost, ok := s.layers[rec.DiffID]; ok {
		e.refs += lost.refs // of those who waited for it to come back
	}
	s.layers[rec.DiffID] = e
	lease.held = append(lease.held, rec.DiffID)
	s.mu.Unlock()
	return nil
}

// place moves the layer to path. A layer that could not be removed when the disk
// failed makes way: no record knows it.
func (in *Ingest) place(path string) error {
	if err := failpoint.Hit("store/commit/rename"); err != nil {
		return err
	}
	err := os.Rename(in.dir, path)
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	trash, err := in.s.takeAway(path)
	if err != nil {
		return err
	}
	if trash != "" {
		in.s.noteStuck(trash)
	}
	return os.Rename(in.dir, path)
}

// Abort removes what was made. It is idempotent.
func (in *Ingest) Abort() {
	failpoint.Pass("store/ingest/abort")
	if in.Diff != nil {
		in.Diff.Close()
	}
	if err := tree.RemovePath(filepath.Dir(in.dir), filepath.Base(in.dir)); err != nil {
		in.s.noteStuck(in.dir)
		in.s.log.Warn("remove a partial layer", "path", in.dir, "error", err)
	}
}

// Layers returns the records of all layers, ordered by DiffID.
func (s *Store) Layers() []Layer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]Layer, 0, len(s.layers))
	for _, e := range s.layers {
		if !e.missing {
			list = append(list, e.rec)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].DiffID < list[j].DiffID })
	return list
}

// Layer returns the record of a layer, or errdefs.ErrNotFound.
func (s *Store) Layer(id digest.Digest) (Layer, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.layers[id]
	if !ok || e.missing {
		return Layer{}, fmt.Errorf("layer %s: %w", id, errdefs.ErrNotFound)
	}
	return e.rec, nil
}

// LayerUsage adds up what all layers take.
func (s *Store) LayerUsage() tree.Usage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var u tree.Usage
	for _, e := range s.layers {
		if e.missing {
			continue
		}
		u.Bytes += e.rec.Bytes
		u.Inodes += e.rec.Inodes
	}
	return u
}
