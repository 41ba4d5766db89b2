package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	partialDir = "partial"

	// PartialAge is how long a partial blob waits for a pull that goes on with it.
	PartialAge = 24 * time.Hour
	// A transfer that takes longer than partialCalm, or will at its pace, is brought to
	// the disk in steps of partialStep: a machine that goes down has to fetch little
	// again. Most blobs are whole and removed before.
	partialCalm = 3 * time.Second
	partialStep = 4 << 20
)

// Partial is the beginning of a blob, kept while the blob is fetched so that a pull
// after a failure, a kill or a reboot goes on where it ended. What it holds is
// verified with the rest of the blob, by who reads it. It is for one goroutine, but
// for ReadAt and WriteAt.
type Partial struct {
	s      *Store
	file   *os.File
	path   string
	digest digest.Digest
	size   atomic.Int64
	ahead  []Extent // what was there behind a gap
	whole  int64    // bytes of the whole blob

	first    sync.Once
	began    time.Time    // of the first write
	fetched  atomic.Int64 // bytes written since
	syncing  sync.WaitGroup
	busy     chan struct{} // holds a token while a sync runs
	unsynced atomic.Int64  // bytes written since one began
}

// PartialBlob tells of a partial blob on the disk.
type PartialBlob struct {
	Digest  digest.Digest
	Size    int64 // bytes that are there, without gaps
	Changed time.Time

	name string
}

func partialName(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded()
}

// Partial opens what is there of a blob that has size bytes, or begins it. It
// returns nil when another transfer of the same blob has it. The caller ends with
// Keep or Discard.
func (s *Store) Partial(d digest.Digest, size int64) (*Partial, error) {
	if !s.claim(d) {
		return nil, nil
	}
	p := &Partial{s: s, digest: d, path: s.path(partialDir, partialName(d)), whole: size, busy: make(chan struct{}, 1)}
	if err := p.open(); err != nil {
		p.release()
		return nil, fmt.Errorf("open the partial blob %s: %w", d, named(err))
	}
	return p, nil
}

func (p *Partial) open() (err error) {
	if err := failpoint.Hit("store/partial/open"); err != nil {
		return err
	}
	if p.file, err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	st, err := p.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() > p.whole || !st.Mode().IsRegular() {
		err = p.file.Truncate(0)
	} else {
		p.find(st)
	}
	return err
}

// Size is the number of bytes that are there.
func (p *Partial) Size() int64 { return p.size.Load() }

// Reader reads what was there when it was called.
func (p *Partial) Reader() io.Reader { return io.NewSectionReader(p.file, 0, p.Size()) }

// Write appends what was fetched.
func (p *Partial) Write(b []byte) (int, error) {
	if err := failpoint.Hit("store/partial/write"); err != nil {
		return 0, err
	}
	n, err := p.WriteAt(b, p.Size())
	p.Advance(n)
	return n, err
}

// Advance says that the next n bytes are there, by WriteAt or from before.
func (p *Partial) Advance(n int) { p.size.Add(int64(n)) }

// isLong tells whether the whole blob takes longer than partialCalm at the pace that the
// transfer has had.
func (p *Partial) isLong() bool {
	return float64(time.Since(p.began))*float64(p.whole) > float64(partialCalm)*float64(p.fetched.Load())
}

// syncSoon brings what is there to the disk beside the transfer, and what was read out
// of the page cache: only a pull that failed reads it again.
func (p *Partial) syncSoon() {
	select {
	case p.busy <- struct{}{}:
	default:
		return
	}
	p.syncing.Go(func() {
		defer func() { <-p.busy }()
		fd := int(p.file.Fd())
		// What comes while the disk is slow may be the last for long: more than a step of
		// it is next.
		for again := true; again; again = p.unsynced.Load() >= partialStep {
			p.unsynced.Store(0)
			size := p.Size()
			if unix.Fdatasync(fd) == nil {
				_ = unix.Fadvise(fd, 0, size, unix.FADV_DONTNEED)
			}
		}
	})
}

// Keep leaves what is there for the next transfer.
func (p *Partial) Keep() {
	if p.Size() == 0 {
		p.Discard()
		return
	}
	p.release()
}

// Discard removes it: the blob is whole elsewhere, or this is not its beginning.
func (p *Partial) Discard() {
	failpoint.Pass("store/partial/discard")
	if err := os.Remove(p.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		p.s.log.Warn("remove a partial blob", "path", p.path, "error", err)
	}
	p.release()
}

// Store makes a blob of it, which is in the lease then. The caller has read it to its
// end and verified it.
func (p *Partial) Store(lease *Lease) error {
	defer p.release()
	return lease.adopt(p.path, p.digest)
}

// Reset begins anew.
func (p *Partial) Reset() error {
	if err := p.file.Truncate(0); err != nil {
		return fmt.Errorf("empty a partial blob: %w", err)
	}
	p.size.Store(0)
	p.ahead = nil
	return nil
}

func (p *Partial) release() {
	p.unsynced.Store(0) // waits for one sync at most
	p.syncing.Wait()
	if p.file != nil {
		p.file.Close()
	}
	p.s.mu.Lock()
	delete(p.s.partials, p.digest)
	p.s.mu.Unlock()
}

// Partials lists the partial blobs on the disk, those of running transfers too.
func (s *Store) Partials() ([]PartialBlob, error) {
	entries, err := os.ReadDir(s.path(partialDir))
	if err != nil {
		return nil, fmt.Errorf("list partial blobs: %w", err)
	}
	var list []PartialBlob
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // it is whole by now
		}
		algorithm, hex, _ := strings.Cut(e.Name(), "-")
		list = append(list, PartialBlob{Digest: digest.Digest(algorithm + ":" + hex), Size: allocated(info), Changed: info.ModTime(), name: e.Name()})
	}
	return list, nil
}

// ExpirePartials removes the partial blobs that no transfer has open and that were
// last written before the given time. A full disk is a reason to expire all.
func (s *Store) ExpirePartials(before time.Time) error {
	list, err := s.Partials()
	if err != nil {
		return err
	}
	var failed error
	for _, p := range list {
		if !p.Changed.Before(before) || !s.claim(p.Digest) {
			continue
		}
		path := s.path(partialDir, p.name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("remove a partial blob: %w", err))
		}
		s.mu.Lock()
		delete(s.partials, p.Digest)
		s.mu.Unlock()
	}
	return failed
}

// claim makes sure that nobody else has the partial blob open.
func (s *Store) claim(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.partials[d] {
		return false
	}
	s.partials[d] = true
	return true
}
