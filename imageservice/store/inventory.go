package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/inventory"
	"github.com/berth-cri/berth/imageservice/tree"
)

// inventoryFile lists what a layer's tree holds.
const inventoryFile = "inventory"

// ErrUnverifiable tells that nobody knows what a layer should hold: it has no
// inventory, or a damaged one.
var ErrUnverifiable = fmt.Errorf("there is nothing to compare it with: %w", errdefs.ErrFailedPrecondition)

// flushTree brings what the layer holds to the disk, and writes it down while it reads it,
// with what it takes of the disk now.
func (s *Store) flushTree(ctx context.Context, l Layer) error {
	dir := s.path(layersDir, l.DiffID.Encoded())
	flush, err := tree.NewFlusher(dir+"/"+diffDir, l.Bytes > MaxCached())
	if err != nil {
		return err
	}
	if l.Inventory != "" { // this was begun before, and broken off
		_, err = inventory.Walk(ctx, dir+"/"+diffDir, l.Implied, flush, func(inventory.Entry) error { return nil })
		return errors.Join(err, flush.Close())
	}
	d, usage, err := inventory.Write(ctx, dir+"/"+inventoryFile, dir+"/"+diffDir, l.Implied, flush)
	if err := errors.Join(err, flush.Close()); err != nil {
		return err
	}
	l.Inventory, l.Bytes, l.Inodes = d, usage.Bytes, usage.Inodes
	if err := writeRecord(dir+"/"+layerFile, layerKind, l); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.layers[l.DiffID]; ok {
		e.rec = l
	}
	return nil
}

// Inventory is the digest of the inventory of a layer that was unpacked and not
// committed yet.
func (in *Ingest) Inventory(ctx context.Context, rec Layer) (digest.Digest, error) {
	d, _, err := inventory.Write(ctx, in.dir+"/"+inventoryFile, in.dir+"/"+diffDir, rec.Implied, nil)
	return d, err
}

// CheckLayer compares a layer with its inventory. It reads all of the layer. The
// error is ErrUnverifiable if it has none, errdefs.ErrNotFound if the layer is not
// there.
func (s *Store) CheckLayer(ctx context.Context, id digest.Digest) (inventory.Report, error) {
	lease := s.Lease()
	defer func() { _ = lease.Release() }()
	l, ok := lease.Hold(id)
	if !ok {
		return inventory.Report{}, fmt.Errorf("layer %s: %w", id, errdefs.ErrNotFound)
	}
	if l.Inventory == "" {
		return inventory.Report{}, fmt.Errorf("layer %s has no inventory yet: %w", id, ErrUnverifiable)
	}
	return s.compare(ctx, l, s.path(layersDir, id.Encoded()))
}

// compare holds the tree in dir against the inventory of the layer.
func (s *Store) compare(ctx context.Context, l Layer, dir string) (inventory.Report, error) {
	report, err := inventory.Check(ctx, s.path(layersDir, l.DiffID.Encoded(), inventoryFile), l.Inventory, dir+"/"+diffDir, l.Implied)
	if errors.Is(err, inventory.ErrDamaged) || errors.Is(err, os.ErrNotExist) {
		return report, fmt.Errorf("layer %s: %w: %w", l.DiffID, err, ErrUnverifiable)
	}
	return report, err
}

// Present looks, without reading it, whether a layer is there: its directory, which
// is the one that was unpacked, and its record. A layer of which that is not true is
// ErrDamagedLayer; what else its files hold only CheckLayer finds out.
func (s *Store) Present(id digest.Digest) error {
	s.mu.RLock()
	e, ok := s.layers[id]
	missing := ok && e.missing
	s.mu.RUnlock()
	if !ok {
		return fmt.Errorf("layer %s: %w", id, errdefs.ErrNotFound)
	}
	if missing {
		return fmt.Errorf("layer %s is lost: %w", id, ErrDamagedLayer)
	}
	if st, err := os.Lstat(s.Diff(id)); err != nil || !st.IsDir() {
		return fmt.Errorf("layer %s has no directory (%w): %w", id, notDirectory(err), ErrDamagedLayer)
	}
	if st, err := os.Lstat(s.path(layersDir, id.Encoded(), layerFile)); err != nil || st.Size() == 0 {
		return fmt.Errorf("layer %s has no record: %w", id, ErrDamagedLayer)
	}
	return nil
}

// ErrDamagedLayer marks a layer that cannot be used before it is repaired.
var ErrDamagedLayer = fmt.Errorf("the layer is damaged: %w", errdefs.ErrDataLoss)

func notDirectory(err error) error {
	if err != nil {
		return err
	}
	return errors.New("it is something else")
}

// Lose takes note of a layer that is not Present. What is left of it goes away, those
// who refer to it keep their references, and Commit brings it back. One that is present,
// because somebody was quicker to repair it, stays.
func (s *Store) Lose(id digest.Digest) error {
	s.trees.Lock()
	defer s.trees.Unlock()
	s.commit.Lock()
	defer s.commit.Unlock()
	if !errors.Is(s.Present(id), ErrDamagedLayer) {
		return nil
	}
	s.mu.Lock()
	e, ok := s.layers[id]
	if ok {
		lost := *e
		lost.missing, lost.synced = true, false
		s.layers[id] = &lost
	}
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if err := s.discardLayer(id); err != nil {
		return fmt.Errorf("take the damaged layer %s away: %w", id, err)
	}
	return nil
}

// discardLayer takes what is left of a lost layer out of layers/. Containers may have
// it mounted: it stays for them.
func (s *Store) discardLayer(id digest.Digest) error {
	if _, err := os.Lstat(s.path(layersDir, id.Encoded())); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	dir, err := s.supersedeDir(id)
	if err != nil {
		return err
	}
	if err := os.Rename(s.path(layersDir, id.Encoded()), s.path(supersededDir, dir, supersededLayerDir)); err != nil {
		return err
	}
	return s.settleSuperseded(dir, id)
}
