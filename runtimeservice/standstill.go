package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/operation"
)

// Standstill calls f while nothing of a container runs, for longest at most, 0 for two
// minutes: its processes are frozen, or it is kept from being started. It goes on whatever
// happens, with f's context ended first. If it went on before f was through, that is
// ErrFailedPrecondition.
func (s *checkpoints) Standstill(ctx context.Context, id string, longest time.Duration, f func(context.Context) error) error {
	c, err := s.containers.find(id)
	if err != nil {
		return err
	}
	s.background.begin()
	defer s.background.end()
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	if c.requireRunning() != nil {
		defer c.op.release()
		return f(ctx)
	}
	c.op.release()
	return s.whileFrozen(ctx, c, longest, f)
}

func (s *checkpoints) whileFrozen(ctx context.Context, c *container, longest time.Duration, f func(context.Context) error) error {
	if longest <= 0 {
		longest = checkpointTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("the time for which it may stand still is over: %w", context.DeadlineExceeded))
	defer cancel()
	ids := []string{c.id}
	err := operation.Do(ctx, "freeze", func(ctx context.Context) error { return s.monitor.Freeze(ctx, ids, longest+thawMargin) })
	if errors.Is(err, errdefs.ErrFailedPrecondition) {
		return err // perhaps another has frozen it, and thaws it
	}
	if err == nil {
		err = f(ctx)
	}
	thawed := s.thaw(ctx, ids)
	if err == nil && c.requireRunning() == nil {
		err = thawed
	}
	return err
}
