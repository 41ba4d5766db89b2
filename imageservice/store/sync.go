package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/berth-cri/berth/imageservice/tree"
)

// MaxCached is up to what size a layer's files stay in the page cache: a container is
// about to read them. It is a sixteenth of the machine's memory.
func MaxCached() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit) / 16
}

// Sync brings the layers, blobs and images that are only in memory yet to the disk,
// and marks the layers and blobs so. It returns how many layers it marked. Nothing else on the file
// system is synced.
//
// On the way each layer gets its inventory, while its files are in the page cache.
//
// The order makes the mark true: the layer's tree, inventory and record, then the directory
// that has its name, then the mark, then the mark's name. The mark is also the file that a
// tree.Flusher wants to be made and synced after it. An image's record comes
// last: one whose layers were lost is forgotten at the next start.
//
// A failure is no harm until the machine goes down. A layer that failed is not
// tried again in this boot, because the kernel tells of a lost write once; without
// a mark, the next boot fetches it anew.
func (s *Store) Sync(ctx context.Context) (marked int, err error) {
	// Held, the layers cannot go and come back under the same name meanwhile.
	lease := s.Lease()
	defer func() { err = errors.Join(err, lease.Release()) }()
	var failed []error
	for _, l := range lease.holdUnsynced() {
		err := s.syncLayer(ctx, l.DiffID)
		switch {
		case ctx.Err() != nil:
			return marked, ctx.Err()
		case err != nil:
			s.giveUpSync(l.DiffID)
			failed = append(failed, fmt.Errorf("sync layer %s: %w", l.DiffID, named(err)))
			continue
		}
		marked++
	}
	_, err = s.content.Sync(ctx)
	failed = append(failed, err, s.syncImages(ctx))
	return marked, errors.Join(failed...)
}

func (l *Lease) holdUnsynced() []Layer {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	var pending []Layer
	for id, e := range l.s.layers {
		if e.toSync() {
			e.refs++
			l.held = append(l.held, id)
			pending = append(pending, e.rec)
		}
	}
	return pending
}

// toSync tells whether the layer can be brought to the disk, and was not yet.
func (e *layerEntry) toSync() bool { return !e.synced && !e.unsyncable && !e.missing }

func (s *Store) syncLayer(ctx context.Context, id digest.Digest) error {
	s.trees.Lock()
	defer s.trees.Unlock()
	l, err := s.Layer(id)
	if err != nil {
		return nil // lost meanwhile
	}
	dir := s.path(layersDir, l.DiffID.Encoded())
	if err := s.flushTree(ctx, l); err != nil {
		return err
	}
	if err := tree.Sync(dir); err != nil {
		return err
	}
	if err := errors.Join(failpoint.Hit("store/sync/tree"), tree.SyncDir(s.path(layersDir))); err != nil {
		return err
	}
	return s.markSynced(l.DiffID)
}

// markSynced leaves the mark and syncs it: a layer whose mark is lost in a power
// loss is fetched again.
func (s *Store) markSynced(id digest.Digest) error {
	f, err := os.OpenFile(s.path(layersDir, id.Encoded(), syncedFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	failpoint.Pass("store/sync/mark")
	if err := errors.Join(f.Sync(), f.Close(), tree.SyncDir(s.path(layersDir, id.Encoded()))); err != nil {
		return err
	}
	failpoint.Pass("store/sync/marked")
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.layers[id]; ok {
		e.synced = true
	}
	return nil
}

func (s *Store) giveUpSync(id digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.layers[id]; ok {
		e.unsyncable = true
	}
}

// markWhole leaves a mark in an image's directory once all its layers have theirs. The
// layers of an image that is recorded anew with others may lose one without being
// forgotten; then it is fetched again. early is true for an image that came when the layers
// to sync were chosen already.
func (s *Store) markWhole(id digest.Digest) (early bool, err error) {
	s.mu.RLock()
	img, ok := s.images[id]
	for i := 0; ok && i < len(img.Layers); i++ {
		e := s.layers[img.Layers[i]]
		ok = e != nil && e.synced
		early = e != nil && e.toSync()
	}
	s.mu.RUnlock()
	if !ok {
		return early, nil
	}
	return false, os.WriteFile(s.imagePath(id, syncedFile), nil, 0o600)
}

// syncImages syncs the records of the images that were written since it last did.
// A record has a checksum: one that failed is written again with the next change.
func (s *Store) syncImages(ctx context.Context) error {
	s.mu.Lock()
	ids := s.unsyncedImages
	s.unsyncedImages = map[digest.Digest]bool{}
	s.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	var failed []error
	for id := range ids {
		failpoint.Pass("store/sync/image")
		early, err := s.markWhole(id)
		if early {
			s.mu.Lock()
			s.unsyncedImages[id] = true
			s.mu.Unlock()
		}
		if err == nil {
			err = tree.Sync(s.imagePath(id))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) { // removed meanwhile
			failed = append(failed, err)
		}
	}
	return errors.Join(errors.Join(failed...), tree.SyncDir(s.path(imagesDir)))
}
