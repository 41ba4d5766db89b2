package imageservice

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/operation"
)

// StageRepair is the stage of an operation in which a damaged layer is fetched again.
const StageRepair = "repair layer"

// restoreLayers has a look at each layer before it is mounted, a cheap one, and
// fetches those again that are not there any more, alone. Others who need the same
// layer wait for the same transfer.
func (s *Service) restoreLayers(ctx context.Context, layers []digest.Digest) error {
	for _, id := range layers {
		err := s.store.Present(id)
		if err == nil {
			continue
		}
		if !errors.Is(err, store.ErrDamagedLayer) {
			return err
		}
		if rerr := s.restoreLayer(ctx, id, err); rerr != nil {
			return fmt.Errorf("%w; to fetch it again: %w", err, rerr)
		}
	}
	return nil
}

func (s *Service) restoreLayer(ctx context.Context, id digest.Digest, why error) (err error) {
	ctx, done, err := s.beginWork(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, end := operation.Stage(ctx, StageRepair, "berth.layer.diffid", id.String())
	defer func() { end(err) }()
	s.log.Warn("fetch a damaged layer again", "layer", id, "reason", why)
	if err := s.store.Lose(id); err != nil {
		return err
	}
	lease := s.store.Lease()
	defer func() { err = errors.Join(err, lease.Release()) }()
	if err := s.refetch(ctx, id, lease, nil); err != nil {
		return err
	}
	s.markDirty()
	s.counters.repaired.Add(1)
	s.log.Info("repaired a layer", "layer", id)
	return nil
}

// beginWork is for transfers that are not pulls: they end with their caller's context,
// and when the service is closed, which waits for them.
func (s *Service) beginWork(ctx context.Context) (_ context.Context, done func(), _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pullCtx.Err() != nil {
		return nil, nil, context.Cause(s.pullCtx)
	}
	s.running.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.pullCtx, func() { cancel(errStopped) })
	return ctx, func() {
		stop()
		cancel(nil)
		s.running.Done()
	}, nil
}
