package content

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Sync brings the blobs that are only in memory yet to the disk, marks them so, and
// returns how many it marked. The data goes before the mark. Nothing that runs reads
// a blob again soon: it leaves the page cache.
//
// A blob that failed keeps its mode: after the next boot it is not trusted.
func (s *Store) Sync(ctx context.Context) (int, error) {
	list, err := s.List()
	if err != nil {
		return 0, err
	}
	var marked int
	var failed []error
	for _, b := range list {
		if b.Synced || s.lost(b.Digest) {
			continue
		}
		if ctx.Err() != nil {
			return marked, ctx.Err()
		}
		err := s.syncBlob(b.Digest)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			s.mu.Lock()
			s.unsyncable[b.Digest] = true
			s.mu.Unlock()
			failed = append(failed, fmt.Errorf("sync blob %s: %w", b.Digest, named(err)))
			continue
		}
		marked++
	}
	return marked, errors.Join(failed...)
}

func (s *Store) lost(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsyncable[d]
}

func (s *Store) syncBlob(d digest.Digest) error {
	f, err := os.OpenFile(s.Path(d), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.Path(d))); err != nil {
		return err
	}
	failpoint.Pass("content/sync/mark")
	if err := f.Chmod(modeSynced); err != nil {
		return err
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return f.Sync()
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
