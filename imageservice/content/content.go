// Package content keeps blobs in the form in which they came: compressed layers,
// configurations, manifests and indexes, so that what leaves the node has the
// digests that it came with.
//
// Below its directory a blob is the file <algorithm>/<hex of its digest>. It comes
// there by a rename, when its digest was verified, and leaves by one: no name ever
// stands for a part.
//
// Nothing is synced on the way of a pull. The mode of the file tells what survives
// a power loss: 0600 until Sync has brought the blob to the disk, 0400 from then
// on. Of the first kind, Open drops what another boot has left, like the layers of
// package store; small ones are read instead, and stay if they are right.
//
// The Store does not know who needs a blob. Package store is its one owner: it
// counts who refers to each blob, and it alone takes blobs away. All others read.
package content

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	// modeSynced is the mode of a blob that survives a power loss.
	modeSynced = 0o400
	// smallBlob is the size up to which a blob that may have been hurt is read to
	// find out; larger than any document.
	smallBlob = 8 << 20
	bootFile  = "boot"
)

// ErrCorrupt marks a blob that is not what its digest says. It comes with
// errdefs.ErrDataLoss.
var ErrCorrupt = fmt.Errorf("blob is damaged: %w", errdefs.ErrDataLoss)

// Store is safe for concurrent use, with the exception that Open says.
type Store struct {
	dir     string
	scratch string
	log     *slog.Logger

	mu sync.Mutex
	// unsyncable are blobs of which the kernel told a lost write: it tells once.
	unsyncable map[digest.Digest]bool
	// disk is what each blob takes.
	disk  map[digest.Digest]int64
	total int64
}

// Info tells of a blob on the disk.
type Info struct {
	Digest digest.Digest
	Size   int64
	// Disk is what it takes there, in bytes.
	Disk int64
	// Synced tells that it survives a power loss.
	Synced bool
}

// Open takes up the blobs at dir, which it makes if need be. What is being written
// goes to scratch, on the same file system, which the owner empties at its start.
// bootID identifies the running kernel. Only one Store may have a directory open.
func Open(dir, scratch, bootID string, log *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, scratch: scratch, log: log, unsyncable: map[digest.Digest]bool{}, disk: map[digest.Digest]int64{}}
	for _, d := range []string{dir, filepath.Join(dir, string(digest.SHA256)), filepath.Join(dir, string(digest.SHA512))} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open content store: %w", named(err))
		}
		if err := os.Chmod(d, 0o700); err != nil {
			return nil, fmt.Errorf("open content store: %w", err)
		}
	}
	if err := s.afterBoot(bootID); err != nil {
		return nil, fmt.Errorf("open content store: %w", named(err))
	}
	list, err := s.List()
	if err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	for _, b := range list {
		s.count(b.Digest)
	}
	return s, nil
}

// afterBoot looks at what was not synced when the machine went down. The boot is
// noted after that, so that a loss of the note only repeats it.
func (s *Store) afterBoot(bootID string) error {
	path := filepath.Join(s.dir, bootFile)
	if last, err := os.ReadFile(path); err == nil && string(last) == bootID {
		return nil
	}
	list, err := s.List()
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.Synced || b.Size <= smallBlob && s.Verify(b.Digest) == nil {
			continue
		}
		s.log.Warn("drop a blob: not known to have reached the disk before the machine went down", "blob", b.Digest)
		if err := s.Delete(b.Digest); err != nil {
			return err
		}
	}
	tmp := filepath.Join(s.scratch, "blobs-boot")
	err = os.WriteFile(tmp, []byte(bootID), 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		// The disk is full: the next start looks again.
		s.log.Warn("note that blobs were looked at in this boot", "error", err)
		os.Remove(tmp)
	}
	return nil
}

// Path is where the blob is, or would be. It is for those who move or link the
// file.
func (s *Store) Path(d digest.Digest) string {
	return filepath.Join(s.dir, d.Algorithm().String(), d.Encoded())
}

// Blob is an open blob. It stays readable when it is removed meanwhile.
type Blob struct {
	*os.File
	size int64
}

// Size is the number of bytes.
func (b *Blob) Size() int64 { return b.size }

// Open opens a blob for reading, or returns errdefs.ErrNotFound. Nothing is
// verified: readers that hand the bytes on do that while they read, see Reader.
func (s *Store) Open(d digest.Digest) (*Blob, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("open blob %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	f, err := os.OpenFile(s.Path(d), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("is no regular file: %w", ErrCorrupt)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	return &Blob{File: f, size: st.Size()}, nil
}

// Stat tells of a blob, or returns errdefs.ErrNotFound.
func (s *Store) Stat(d digest.Digest) (Info, error) {
	if d.Validate() != nil {
		return Info{}, fmt.Errorf("blob %q: %w", d, errdefs.ErrNotFound)
	}
	st, err := os.Lstat(s.Path(d))
	if errors.Is(err, os.ErrNotExist) {
		return Info{}, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	if err != nil {
		return Info{}, fmt.Errorf("blob %s: %w", d, err)
	}
	return describe(d, st), nil
}

func describe(d digest.Digest, st os.FileInfo) Info {
	info := Info{Digest: d, Size: st.Size(), Disk: st.Size(), Synced: st.Mode().Perm() == modeSynced}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		info.Disk = sys.Blocks * 512
	}
	return info
}

// Has tells whether the blob is there.
func (s *Store) Has(d digest.Digest) bool {
	_, err := s.Stat(d)
	return err == nil
}

// List returns all blobs, ordered by digest. Files that are none are left out.
func (s *Store) List() ([]Info, error) {
	var list []Info
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		entries, err := os.ReadDir(filepath.Join(s.dir, string(algorithm)))
		if err != nil {
			return nil, fmt.Errorf("list blobs: %w", err)
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(algorithm, e.Name())
			if d.Validate() != nil {
				continue
			}
			if st, err := e.Info(); err == nil {
				list = append(list, describe(d, st))
			}
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Digest < list[j].Digest })
	return list, nil
}

// Delete removes a blob. It is idempotent. Only the owner calls it.
func (s *Store) Delete(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("remove blob %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	if err := os.Remove(s.Path(d)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove blob %s: %w", d, err)
	}
	s.Forget(d)
	return nil
}

// Forget says that the owner has moved the blob away by itself.
func (s *Store) Forget(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unsyncable, d)
	s.total -= s.disk[d]
	delete(s.disk, d)
}

// count takes up a blob that has come.
func (s *Store) count(d digest.Digest) {
	info, err := s.Stat(d)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total += info.Disk - s.disk[d]
	s.disk[d] = info.Disk
}

// Usage is what all blobs take on the disk, in bytes, and how many there are. It reads
// nothing.
func (s *Store) Usage() (bytes, blobs uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(s.total), uint64(len(s.disk))
}

// Free is the room that is left on the file system, in bytes.
func (s *Store) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.scratch, &st); err != nil {
		return 0, fmt.Errorf("look for room on the disk: %w", err)
	}
	return int64(min(st.Bavail, 1<<40)) * st.Bsize, nil
}

// Verify reads a blob and returns ErrCorrupt if it is not what its digest says.
func (s *Store) Verify(d digest.Digest) error {
	b, err := s.Open(d)
	if err != nil {
		return err
	}
	defer b.Close()
	h := d.Algorithm().Hash()
	if _, err := io.Copy(h, b.Once()); err != nil {
		return fmt.Errorf("read blob %s: %w", d, err)
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return fmt.Errorf("blob %s has digest %s: %w", d, got, ErrCorrupt)
	}
	return nil
}

// named gives errors of the disk their kind.
func named(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}
