package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/berth-cri/berth/imageservice/inflate"
	"github.com/klauspost/compress/zstd"
)

// A pipeline has four stages, each with a goroutine of its own, so that a single
// layer keeps several cores busy:
//
//	blob ─> digest, decipher ─> inflate ─┬─> DiffID
//	                                     └─> tree (the caller's goroutine)
//
// Between them go buffers of a pool: the stages wait for each other once a
// chunk, not once a read.
type pipeline struct {
	cancel context.CancelCauseFunc
	ctx    context.Context
	spec   Spec

	archive *chunkReader
	wg      sync.WaitGroup

	mu      sync.Mutex
	err     error // the first of the stages' errors
	tarSize int64
}

// errStopped ends the stages when the tree stage is at its end.
var errStopped = errors.New("unpacking has ended")

func startPipeline(ctx context.Context, blob io.ReadCloser, spec Spec, progress func(int64)) *pipeline {
	p := &pipeline{spec: spec}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	// Closing is what ends a read that waits for the network.
	context.AfterFunc(p.ctx, func() { blob.Close() })
	compressed := make(chan *chunk, chunksInFlight)
	toHash := make(chan *chunk, chunksInFlight)
	toTree := make(chan *chunk, chunksInFlight)
	p.archive = &chunkReader{ctx: p.ctx, ch: toTree}
	p.stage(func() error { return p.fetch(blob, compressed) }, compressed)
	p.stage(func() error { return p.inflate(compressed, toHash, toTree, progress) }, toHash, toTree)
	p.stage(func() error { return p.diffID(toHash) })
	return p
}

// stage runs f. Its error is known before its outputs close, so that the next
// stage never takes a failure for the end.
func (p *pipeline) stage(f func() error, outputs ...chan *chunk) {
	p.wg.Go(func() {
		if err := guarded(f); err != nil {
			p.fail(err)
		}
		for _, out := range outputs {
			close(out)
		}
	})
}

// guarded makes an error of a panic: a decoder that a stranger's bytes confuse must
// not end the daemon.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v: %w", r, ErrHostile)
		}
	}()
	return f()
}

// fail keeps the first error and ends all stages. What comes when they are being
// ended already, a blob that was closed under its reader for example, is no
// finding.
func (p *pipeline) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() == nil {
		p.err = err
	}
	p.cancel(err)
}

func (p *pipeline) tar() io.Reader { return p.archive }

// finish waits for the stages and returns what they found. treeErr is the tree
// stage's result: with it there is nothing more to check.
func (p *pipeline) finish(treeErr error) error {
	if treeErr != nil {
		p.cancel(errStopped)
	}
	p.wg.Wait()
	p.cancel(errStopped)
	p.archive.release()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// fetch moves the blob into chunks and checks its size and digest.
func (p *pipeline) fetch(blob io.Reader, out chan<- *chunk) error {
	h := hasher(p.spec.Digest)
	left := p.spec.Size
	for {
		c := newChunk(1)
		n, err := fill(blob, c.space())
		c.n = n
		left -= int64(n)
		if left < 0 {
			c.release()
			return fmt.Errorf("blob %s is longer than the %d bytes that the manifest says: %w", p.spec.Digest, p.spec.Size, ErrCorrupt)
		}
		h.Write(c.bytes())
		p.spec.decrypt(c.bytes())
		// The last chunk goes on only when the digest is right, so that the tree
		// stage cannot end well before.
		done := err == io.EOF
		if done {
			if left > 0 {
				c.release()
				return fmt.Errorf("blob %s ends after %d of %d bytes: %w", p.spec.Digest, p.spec.Size-left, p.spec.Size, ErrCorrupt)
			}
			if got := sum(p.spec.Digest, h); got != p.spec.Digest {
				c.release()
				return fmt.Errorf("blob has digest %s, not %s: %w", got, p.spec.Digest, ErrCorrupt)
			}
			if err := p.spec.authentic(); err != nil {
				c.release()
				return err
			}
		}
		if serr := send(p.ctx, out, c); serr != nil {
			return serr
		}
		if done {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill reads until buf is full; io.EOF tells that the reader is at its end.
func fill(r io.Reader, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// inflate decompresses and hands each chunk to both stages that follow.
func (p *pipeline) inflate(in <-chan *chunk, toHash, toTree chan<- *chunk, progress func(int64)) error {
	src := &chunkReader{ctx: p.ctx, ch: in}
	defer src.release()
	plain, done, err := decompress(src, p.spec.Inflate)
	if err != nil {
		return err
	}
	defer done()
	limit := max(ratioFloor, p.spec.Size*maxRatio)
	for {
		c := newChunk(2)
		n, err := fill(plain, c.space())
		c.n = n
		p.tarSize += int64(n)
		if p.tarSize > limit {
			c.release()
			c.release()
			return fmt.Errorf("blob of %d bytes inflates to more than %d: %w", p.spec.Size, limit, ErrHostile)
		}
		if serr := errors.Join(send(p.ctx, toHash, c), send(p.ctx, toTree, c)); serr != nil {
			return serr
		}
		if progress != nil {
			progress(int64(n))
		}
		if err == io.EOF {
			// What follows the compressed stream still counts for the digest.
			_, err = io.Copy(io.Discard, src)
			return err
		}
		if err != nil {
			return inflateError(err)
		}
	}
}

// inflateError keeps the errors of the stages before and calls the rest damage.
func inflateError(err error) error {
	if errors.Is(err, errStopped) || errors.Is(err, errUpstream) {
		return err
	}
	return fmt.Errorf("decompress: %w: %w", err, ErrCorrupt)
}

// decompress tells the compression by its first bytes: what manifests say of it
// is not always so, and the digests decide in the end.
func decompress(r *chunkReader, mode inflate.Mode) (io.Reader, func(), error) {
	magic, err := r.peek(4)
	if err != nil {
		return nil, nil, inflateError(err)
	}
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		z, err := inflate.Gzip(r, mode)
		if err != nil {
			return nil, nil, inflateError(err)
		}
		return z, func() { z.Close() }, nil
	case len(magic) == 4 && magic[0]&0xf0 == 0x50 && magic[1] == 0x2a && magic[2] == 0x4d && magic[3] == 0x18,
		len(magic) == 4 && magic[0] == 0x28 && magic[1] == 0xb5 && magic[2] == 0x2f && magic[3] == 0xfd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderMaxMemory(maxZstdWindow))
		if err != nil {
			return nil, nil, inflateError(err)
		}
		return z, z.Close, nil
	}
	return r, func() {}, nil
}

func (p *pipeline) diffID(in <-chan *chunk) error {
	if p.spec.DiffID == "" {
		for c := range in {
			c.release()
		}
		return nil
	}
	h := hasher(p.spec.DiffID)
	for c := range in {
		h.Write(c.bytes())
		c.release()
	}
	if p.ctx.Err() != nil {
		return nil // ended early for a reason that is known
	}
	if got := sum(p.spec.DiffID, h); got != p.spec.DiffID {
		return fmt.Errorf("layer %s has DiffID %s, not %s: %w", p.spec.Digest, got, p.spec.DiffID, ErrDiffID)
	}
	return nil
}
