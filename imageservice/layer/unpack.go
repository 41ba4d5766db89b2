// Package layer turns the blob of an image layer into a directory that
// overlayfs can stack: in one pass it checks the blob's digest, decompresses,
// checks the DiffID and writes the tree.
//
// The tree is written relative to descriptors only. Every path of the archive is
// resolved by the kernel inside the layer's root (openat2, RESOLVE_IN_ROOT) and
// nothing that was resolved is kept for the next entry, so that an archive which
// swaps a directory for a link gains nothing.
package layer

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/berth-cri/berth/imageservice/inflate"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// ErrHostile marks an archive that no honest tool makes: it is refused, not
// repaired. It comes with errdefs.ErrInvalidArgument.
var ErrHostile = fmt.Errorf("layer refused: %w", errdefs.ErrInvalidArgument)

// ErrCorrupt marks content that is not what its digest says, or ends early: from
// another registry host it may be right. It comes with errdefs.ErrDataLoss.
var ErrCorrupt = fmt.Errorf("content damaged: %w", errdefs.ErrDataLoss)

// ErrDiffID marks a layer whose blob is right and does not hold what the image's
// configuration says: no host can do better. It comes with ErrCorrupt.
var ErrDiffID = fmt.Errorf("configuration and layer do not belong together: %w", ErrCorrupt)

// Limits of what a layer may hold. The ones of the archive's structure are far
// above any image seen; the disk is the limit of honest content.
const (
	// maxRatio is above what gzip can reach (1032); more is a bomb made with a
	// stronger compression.
	maxRatio = 1100
	// ratioFloor is the size that is allowed whatever the compressed size was.
	ratioFloor = 256 << 20
	// maxEntries bounds the entries of one layer.
	maxEntries = 4_000_000
	// maxNameLen is the kernel's PATH_MAX.
	maxNameLen = 4096
	// maxSparseBytes bounds the size of the sparse files of one layer: their zeros
	// cost the archive nothing, and here a look at each.
	maxSparseBytes = 64 << 30
	// maxXattrBytes bounds the extended attributes of one file.
	maxXattrBytes = 128 << 10
	// maxRememberedBytes bounds the names kept until the end of the layer.
	maxRememberedBytes = 32 << 20
	// maxResolving bounds the time for looking up paths: an archive can make each
	// lead through tens of thousands of directories.
	maxResolving = 2 * time.Minute
	// maxZstdWindow is what one zstd stream may make us hold.
	maxZstdWindow = 32 << 20
)

// Spec says what the blob must be.
type Spec struct {
	Digest digest.Digest // of the blob
	Size   int64         // of the blob, bytes
	DiffID digest.Digest // of the tar archive in it; "" where nobody says
	// Inflate chooses the decoder of gzip.
	Inflate inflate.Mode
	// Cached is how many bytes of files may stay in the page cache, to be read soon. Of a
	// layer that has more the rest is written to the disk and leaves it. 0 is no limit.
	Cached uint64
	// Cipher deciphers an encrypted blob, whose Digest and Size are those of the
	// encrypted bytes; nil for one that is not.
	Cipher Cipher
}

// Cipher turns an encrypted blob into what it holds.
type Cipher interface {
	// Decrypt deciphers the next piece in place.
	Decrypt(piece []byte)
	// Verify tells, after the last piece, whether they are what had been encrypted.
	Verify() error
}

// decrypt deciphers a piece of the blob if it is encrypted.
func (s Spec) decrypt(piece []byte) {
	if s.Cipher != nil {
		s.Cipher.Decrypt(piece)
	}
}

// authentic is asked when all of the blob was deciphered and its digest is right: then
// no host has a better one.
func (s Spec) authentic() error {
	if s.Cipher == nil {
		return nil
	}
	if err := s.Cipher.Verify(); err != nil {
		return fmt.Errorf("decrypt blob %s: %w: %w", s.Digest, err, ErrHostile)
	}
	return nil
}

// Result tells what was written.
type Result struct {
	Bytes   uint64 // allocated on disk, whole blocks
	Inodes  uint64
	TarSize int64 // bytes of the archive
	// Implied are directories that entries lie in though the archive does not
	// describe them; "." is the root. Their mode and owner are those of the layer
	// below that does.
	Implied []string
	// OpaqueRoot tells that nothing of the layers below shows. overlayfs does not
	// take that from the root's attributes: layers below must be left out.
	OpaqueRoot bool
}

// Unpack reads blob to its end, closes it, and writes its tree into root, an empty directory
// on the file system that will hold the layer. progress, when not nil, is told
// the bytes of the archive as they are unpacked. On an error what was written
// stays for the caller to remove. It does not sync.
//
// Errors are ErrCorrupt, ErrHostile, errdefs.ErrResourceExhausted for a full
// disk, those of blob, and those of ctx.
func Unpack(ctx context.Context, blob io.ReadCloser, spec Spec, root *os.File, progress func(int64)) (Result, error) {
	p := startPipeline(ctx, blob, spec, progress)
	t := newTreeWriter(root, spec.Cached)
	err := guarded(func() error { return t.unpack(p.tar()) })
	if werr := t.close(); err == nil {
		err = werr
	}
	if err == nil || errors.Is(err, ErrHostile) {
		// The archive ends before the stream does: the rest counts for the digests.
		// Only when they are right it is the image that is hostile, and not a host
		// that served something else.
		_, rest := io.Copy(io.Discard, p.tar())
		if err == nil {
			err = rest
		}
	}
	perr := p.finish(err)
	switch {
	case perr != nil:
		// What the stages saw comes first: a truncated blob is the reason for a
		// broken archive.
		return Result{}, perr
	case ctx.Err() != nil:
		return Result{}, context.Cause(ctx)
	case err != nil:
		return Result{}, named(err)
	}
	if err := t.finish(); err != nil {
		return Result{}, named(err)
	}
	res := t.result()
	res.TarSize = p.tarSize
	return res, nil
}

// named gives errors of the disk their kind.
func named(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}

// hasher returns the hash of d's algorithm, which the caller has validated.
func hasher(d digest.Digest) hash.Hash { return d.Algorithm().Hash() }

func sum(d digest.Digest, h hash.Hash) digest.Digest {
	return digest.NewDigest(d.Algorithm(), h)
}
