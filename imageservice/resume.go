package imageservice

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/containerd/errdefs"
)

// resumeFloor is the size of the largest blob that is simply fetched again.
const resumeFloor = 4 << 20

// earlier stands among hosts for what an earlier transfer has brought.
const earlier = "an earlier transfer"

// blob reads a layer's blob: first what an earlier transfer has brought, then the
// rest from the network, which it keeps for a later one.
type blob struct {
	s       *Service
	size    int64
	lease   *store.Lease
	partial *store.Partial // nil when nothing is kept
	resumed int64
	before  io.Reader // nil when it is read
	rest    *registry.Stream
	ahead   []registry.Extent // what is there behind resumed
}

// openBlob finds what is there of the blob. To have nothing is no error: the blob
// is fetched from its beginning then. From a single host nothing but its own bytes
// is wanted.
func (s *Service) openBlob(_ context.Context, r layerRequest, only string) *blob {
	b := &blob{s: s, size: r.desc.Size, lease: r.lease}
	if s.opts.DiscardBlobs && (only != "" || r.desc.Size <= resumeFloor) {
		return b
	}
	p, err := s.store.Partial(r.desc.Digest, r.desc.Size)
	if err != nil {
		s.log.Warn("a transfer could not be resumed should it end early", "blob", r.desc.Digest, "error", err)
	}
	if p == nil {
		return b
	}
	if only != "" {
		if err := p.Reset(); err != nil {
			s.log.Warn("a blob cannot be kept", "blob", r.desc.Digest, "error", err)
			p.Discard()
			return b
		}
	}
	b.partial = p
	b.resumed = p.Size()
	there := b.resumed
	for _, span := range p.Ahead() {
		b.ahead = append(b.ahead, registry.Extent{From: span.From, To: span.To})
		there += span.To - span.From
	}
	if there > 0 {
		b.before = p.Reader()
		r.bar.resume(there)
		s.counters.resumedBytes.Add(uint64(there))
		s.log.Info("transfer goes on where an earlier one ended", "blob", r.desc.Digest, "offset", b.resumed, "bytes", there)
	}
	return b
}

// spool is where parts may be put that come before their turn; nil for nowhere.
func (b *blob) spool() registry.Spool {
	if b.partial == nil {
		return nil
	}
	return b.partial
}

// offset is where the network's part begins.
func (b *blob) offset() int64 { return b.resumed }

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	if b.before != nil {
		n, err := b.before.Read(p)
		if err == nil {
			return n, nil
		}
		if err != io.EOF {
			return n, err
		}
		b.before = nil
		if n > 0 {
			return n, nil
		}
	}
	n, err := b.rest.Read(p)
	switch {
	case n <= 0 || b.partial == nil:
	case b.rest.Spooled():
		b.partial.Advance(n)
	default:
		if _, werr := b.partial.Write(p[:n]); werr != nil {
			// The layer itself may still fit: what is kept is a help, not a need.
			b.s.log.Warn("a blob cannot be kept", "error", werr)
			b.partial.Discard()
			b.partial = nil
		}
	}
	return n, err
}

// Close ends a Read that waits.
func (b *blob) Close() error { return b.rest.Close() }

// end keeps the blob when it was verified, or for a later transfer what was fetched of
// it; unless that is not wanted or wrong.
func (b *blob) end(err error) {
	if b.rest != nil {
		b.rest.Leave()
	}
	switch {
	case err == nil && b.partial != nil && !b.s.opts.DiscardBlobs && b.partial.Size() == b.size:
		if err := b.partial.Store(b.lease); err != nil {
			b.s.log.Warn("a blob cannot be kept", "error", err)
		}
	case errors.Is(err, errdefs.ErrResourceExhausted):
		// Room is what is missing.
		if b.partial != nil {
			b.partial.Discard()
		}
		if err := b.s.store.ExpirePartials(time.Now()); err != nil {
			b.s.log.Warn("make room", "error", err)
		}
	case b.partial == nil:
	case err == nil, errors.Is(err, layer.ErrCorrupt), errors.Is(err, layer.ErrHostile):
		b.partial.Discard()
	default:
		b.partial.Keep()
	}
	b.partial = nil
}

// expireLoop removes what no pull has come back for.
func (s *Service) expireLoop(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := s.store.ExpirePartials(time.Now().Add(-store.PartialAge)); err != nil {
			s.log.Warn("remove old partial blobs", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
