package imageservice

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxWrongBlobs bounds how often a layer is fetched again from another host after
// one served wrong content.
const maxWrongBlobs = 4

// layerFlight is a layer that one pull fetches and others may wait for.
type layerFlight struct{ done chan struct{} }

// layerRequest is one layer that a pull needs.
type layerRequest struct {
	repo   *registry.Repository
	desc   ocispec.Descriptor
	diffID digest.Digest
	bar    *layerBar
	lease  *store.Lease
}

// getLayer brings a layer into the store and the request's lease. Of several
// pulls that need the same one, one fetches it. If that one fails, another tries
// with its own registry and credentials.
func (s *Service) getLayer(ctx context.Context, r layerRequest) error {
	for {
		if _, ok := r.lease.Hold(r.diffID); ok {
			r.bar.share()
			return nil
		}
		s.mu.Lock()
		flight, busy := s.layers[r.diffID]
		if !busy {
			flight = &layerFlight{done: make(chan struct{})}
			s.layers[r.diffID] = flight
		}
		s.mu.Unlock()
		if !busy {
			err := s.fetchLayer(ctx, r)
			s.mu.Lock()
			delete(s.layers, r.diffID)
			s.mu.Unlock()
			close(flight.done)
			return err
		}
		select {
		case <-flight.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fetchLayer fetches and unpacks; from another host when one serves what is
// wrong.
func (s *Service) fetchLayer(ctx context.Context, r layerRequest) error {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// Another pull may have brought it just before this one's turn.
	if _, ok := r.lease.Hold(r.diffID); ok {
		r.bar.share()
		return nil
	}
	avoid := map[string]bool{}
	var wrong []error
	for {
		host, err := s.unpackLayer(ctx, r, avoid)
		if err == nil {
			r.bar.finish()
			return nil
		}
		if len(wrong) > 0 && !errors.Is(err, layer.ErrCorrupt) {
			return errors.Join(wrong...) // what the others say is less to the point
		}
		if errors.Is(err, layer.ErrCorrupt) && host != "" {
			err = fmt.Errorf("%s: %w", host, err)
		}
		wrong = append(wrong, err)
		if !errors.Is(err, layer.ErrCorrupt) || avoid[host] || len(wrong) >= maxWrongBlobs || ctx.Err() != nil {
			return errors.Join(wrong...)
		}
		avoid[host] = true
		r.bar.restart()
	}
}

// unpackLayer makes one attempt and tells which host it was that served the
// blob.
func (s *Service) unpackLayer(ctx context.Context, r layerRequest, avoid map[string]bool) (host string, err error) {
	stream, err := r.repo.Stream(ctx, registry.BlobSpec{
		Digest: r.desc.Digest, Size: r.desc.Size, URLs: r.desc.URLs, Avoid: avoid,
		Progress: func(n int64) {
			r.bar.fetched.Add(n)
			s.counters.blobBytes.Add(uint64(n))
		},
	})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	in, err := s.store.Ingest()
	if err != nil {
		return "", err
	}
	s.counters.blobs.Add(1)
	res, err := layer.Unpack(ctx, stream, layer.Spec{Digest: r.desc.Digest, Size: r.desc.Size, DiffID: r.diffID}, in.Diff,
		func(n int64) { r.bar.unpacked.Add(n) })
	if err != nil {
		in.Abort()
		return stream.Host(), err
	}
	s.counters.layers.Add(1)
	return stream.Host(), in.Commit(store.Layer{
		DiffID: r.diffID, Blob: r.desc.Digest, Size: r.desc.Size, TarSize: res.TarSize,
		Bytes: res.Bytes, Inodes: res.Inodes, Implied: res.Implied,
	}, r.lease)
}
