package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/berth-cri/berth/imageservice/encryption"
	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/berth-cri/berth/imageservice/inflate"
	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layerFlight is a layer that one pull fetches and others may wait for.
type layerFlight struct{ done chan struct{} }

// layerRequest is one layer that a pull needs.
type layerRequest struct {
	repo *registry.Repository
	desc ocispec.Descriptor
	// id is what the store has the layer under: the DiffID for what is in clear.
	id    digest.Digest
	bar   *layerBar
	lease *store.Lease
	// diffID is what the image's configuration says of the archive; an artifact's
	// layer has none.
	diffID digest.Digest
	key    *encryption.Key // of an encrypted layer, else nil
	// file says how a layer of an artifact is written; nil for an image's.
	file *manifest.ArtifactLayer
	// commit takes the layer that was unpacked, nil for its place in the store. Then
	// the layer is fetched though the store has it.
	commit func(*store.Ingest, store.Layer) error
	// local opens the blob where it is on this machine; nil for one of a registry.
	local func(ocispec.Descriptor) (io.ReadCloser, error)
}

// getLayer brings a layer into the store and the request's lease. Of several
// pulls that need the same one, one fetches it. If that one fails, another tries
// with its own registry and credentials.
func (s *Service) getLayer(ctx context.Context, r layerRequest) error {
	for {
		if _, ok := r.lease.Hold(r.id); ok {
			r.bar.share()
			return nil
		}
		s.mu.Lock()
		flight, busy := s.layers[r.id]
		if !busy {
			flight = &layerFlight{done: make(chan struct{})}
			s.layers[r.id] = flight
		}
		s.mu.Unlock()
		if !busy {
			return s.fly(ctx, r, flight)
		}
		select {
		case <-flight.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fly fetches the layer and lets those go on who wait for it.
func (s *Service) fly(ctx context.Context, r layerRequest, flight *layerFlight) error {
	defer func() {
		s.mu.Lock()
		delete(s.layers, r.id)
		s.mu.Unlock()
		close(flight.done)
	}()
	return s.fetchLayer(ctx, r)
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
	if _, ok := r.lease.Hold(r.id); ok && r.commit == nil {
		r.bar.share()
		return nil
	}
	if r.local != nil {
		return s.unpackLocal(ctx, r)
	}
	err := s.unpackKept(ctx, r)
	if err == nil {
		r.bar.finish()
		return nil
	}
	if r.repo == nil || ctx.Err() != nil || errors.Is(err, errdefs.ErrResourceExhausted) {
		return err
	}
	used, err := s.unpackLayer(ctx, r, "")
	if r.file != nil && r.file.Name != "" && r.file.Archive && errors.Is(err, layer.ErrHostile) {
		// A file that is only called an archive.
		r.file = &manifest.ArtifactLayer{Name: r.file.Name}
		r.bar.restart()
		used, err = s.unpackLayer(ctx, r, "")
	}
	if errors.Is(err, layer.ErrCorrupt) && !errors.Is(err, layer.ErrDiffID) && ctx.Err() == nil {
		err = s.fetchElsewhere(ctx, r, used, err)
	}
	if err == nil {
		r.bar.finish()
	}
	return err
}

// fetchElsewhere gets a layer after one attempt ended with a wrong blob. That may
// have been put together from several hosts, of which one is bad: now each has to
// serve all of it.
func (s *Service) fetchElsewhere(ctx context.Context, r layerRequest, used []string, first error) error {
	sources := r.repo.Sources(registry.BlobSpec{Digest: r.desc.Digest, URLs: r.desc.URLs})
	failed := wrongBlob{fmt.Errorf("from %s: %w", strings.Join(used, ", "), first)}
	for _, host := range sources {
		if len(used) == 1 && used[0] == host {
			continue // that was the attempt
		}
		r.bar.restart()
		_, err := s.unpackLayer(ctx, r, host)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, errdefs.ErrResourceExhausted) {
			return err
		}
		failed = append(failed, fmt.Errorf("from %s: %w", host, err))
	}
	return failed
}

// wrongBlob tells of all attempts to get a layer. Its kind is that of the first:
// that the blob was wrong says more than that other hosts do not have it.
type wrongBlob []error

func (w wrongBlob) Error() string {
	var parts []string
	for _, err := range w {
		parts = append(parts, err.Error())
	}
	return strings.Join(parts, "; ")
}

func (w wrongBlob) Unwrap() error { return w[0] }

// unpackLayer makes one attempt, at one host or at all in turn. It tells from
// where bytes came.
func (s *Service) unpackLayer(ctx context.Context, r layerRequest, only string) (used []string, err error) {
	blob := s.openBlob(ctx, r, only)
	stream, err := r.repo.Stream(ctx, registry.BlobSpec{
		Digest: r.desc.Digest, Size: r.desc.Size, URLs: r.desc.URLs, Only: only,
		Offset: blob.offset(), Spool: blob.spool(), Have: blob.ahead,
		Progress: func(n int64) {
			r.bar.fetched.Add(n)
			s.counters.blobBytes.Add(uint64(n))
		},
	})
	if err != nil {
		blob.end(err)
		return nil, err
	}
	blob.rest = stream
	defer stream.Close()
	in, err := s.store.Ingest()
	if err != nil {
		blob.end(err)
		return nil, err
	}
	failpoint.Pass("pull/layer/begun")
	s.counters.blobs.Add(1)
	res, err := r.write(ctx, blob, in.Diff, s.opts.Inflate)
	if err != nil {
		in.Abort()
		blob.end(err)
		used = stream.Used()
		if blob.resumed > 0 || len(blob.ahead) > 0 {
			used = append([]string{earlier}, used...)
		}
		return used, err
	}
	failpoint.Pass("pull/layer/unpacked")
	s.counters.layers.Add(1)
	err = r.finish(in, res)
	blob.end(err)
	return nil, err
}

// unpackLocal unpacks a blob that is on this machine.
func (s *Service) unpackLocal(ctx context.Context, r layerRequest) error {
	blob, err := r.local(r.desc)
	if err != nil {
		return err
	}
	in, err := s.store.Ingest()
	if err != nil {
		blob.Close()
		return err
	}
	res, err := r.write(ctx, blob, in.Diff, s.opts.Inflate)
	if err != nil {
		in.Abort()
		if r.file != nil && r.file.Name != "" && r.file.Archive && errors.Is(err, layer.ErrHostile) {
			r.file = &manifest.ArtifactLayer{Name: r.file.Name} // only called an archive
			return s.unpackLocal(ctx, r)
		}
		return err
	}
	s.counters.layers.Add(1)
	return in.Commit(layerRecord(r, res), r.lease)
}

func layerRecord(r layerRequest, res layer.Result) store.Layer {
	return store.Layer{
		DiffID: r.id, Archive: r.archive(), Blob: r.desc.Digest, Size: r.desc.Size, TarSize: res.TarSize,
		Bytes: res.Bytes, Inodes: res.Inodes, Implied: res.Implied, OpaqueRoot: res.OpaqueRoot,
	}
}

// write writes what the blob holds into root.
func (r layerRequest) write(ctx context.Context, blob io.ReadCloser, root *os.File, mode inflate.Mode) (layer.Result, error) {
	spec := layer.Spec{Digest: r.desc.Digest, Size: r.desc.Size, Inflate: mode, Cached: store.MaxCached()}
	if r.key != nil {
		cipher, err := r.key.Cipher()
		if err != nil {
			blob.Close()
			return layer.Result{}, err
		}
		spec.Cipher = cipher
	}
	progress := func(n int64) { r.bar.unpacked.Add(n) }
	switch {
	case r.file == nil:
		spec.DiffID = r.diffID
		return layer.Unpack(ctx, blob, spec, root, progress)
	case r.file.Archive:
		return layer.Unpack(ctx, blob, spec, root, progress)
	}
	return layer.WriteFile(ctx, blob, spec, root, r.file.Name, progress)
}

// archive is the digest of the layer's archive where the store has the layer under
// another.
func (r layerRequest) archive() digest.Digest {
	if r.diffID == r.id {
		return ""
	}
	return r.diffID
}
