package runtimeservice

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// RemoveContainer kills the container if it runs and removes all that it had;
// its log is the client's, who chose the path, and stays. It is idempotent.
func (s *Service) RemoveContainer(ctx context.Context, id string) error {
	c, err := s.containers.find(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	aboutContainer(ctx, c)
	return s.detached(ctx, removeContainerTimeout, func(ctx context.Context) error { return s.removeContainer(ctx, c) })
}

// removeContainer is safe to be called by several at a time.
func (s *Service) removeContainer(ctx context.Context, c *container) error {
	if err := s.removeStopped(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	return nil
}

func (s *Service) removeStopped(ctx context.Context, c *container) error {
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	defer c.op.release()
	if _, ok := s.containers.get(c.id); !ok {
		return nil // another call was faster
	}
	if err := s.stopRun(ctx, c, 0).wait(ctx); err != nil {
		return err
	}
	if err := s.beginRemoval(ctx, c); err != nil {
		return err
	}
	if err := s.purgeContainer(ctx, c.id); err != nil {
		return err
	}
	s.containers.remove(c.id, c.key)
	c.sandbox.dropContainer(c)
	s.creates.Forget(c.key)
	s.starts.Forget(c.id)
	s.usage.forget(c.id)
	s.tellContainer(c, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// beginRemoval makes the container one that nobody updates any more, and tells plugins.
func (s *Service) beginRemoval(ctx context.Context, c *container) error {
	if err := c.plugins.acquire(ctx); err != nil {
		return err
	}
	defer c.plugins.release()
	s.plugins.containerStopped(ctx, c)
	turn := s.plugins.begin()
	defer turn.End()
	if err := c.limits.acquire(ctx); err != nil {
		return err
	}
	s.markContainer(c, func(rec *record.Container) { rec.State = record.Removing })
	c.limits.release()
	s.plugins.containerRemoved(ctx, turn, c)
	return nil
}

// purgeContainer removes what a container of that ID may have, its record last;
// idempotent. No container in the table has the ID, or it is being removed.
func (s *Service) purgeContainer(ctx context.Context, id string) error {
	if err := operation.Do(ctx, "remove processes", func(ctx context.Context) error { return s.opts.Processes.Delete(ctx, id) }); err != nil {
		return fmt.Errorf("remove processes: %w", err)
	}
	if err := operation.Do(ctx, "unmount", func(ctx context.Context) error { return s.removeRootfs(ctx, id) }); err != nil {
		return err
	}
	if err := s.removeCheckpoint(ctx, id); err != nil {
		return err
	}
	if err := s.specs.Delete(id); err != nil {
		return err
	}
	return s.deleteContainerRecord(id)
}

// deleteContainerRecord deletes the record and gives back the SELinux level; idempotent.
func (s *Service) deleteContainerRecord(id string) error {
	if err := s.containerRecords.Delete(id); err != nil {
		return err
	}
	s.opts.Labels.Release(id)
	return nil
}
