package runtimeservice

import (
	"context"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// RemovePodSandbox stops the sandbox and removes it with its containers. It is
// idempotent, and succeeds where the network's plugins are gone.
func (s *Service) RemovePodSandbox(ctx context.Context, id string) error {
	return s.endSandbox(ctx, id, "remove", removeSandboxTimeout, s.removeSandbox)
}

// removeSandbox is called with the whole of sb.members.
func (s *Service) removeSandbox(ctx context.Context, sb *sandbox) error {
	if _, ok := s.sandboxes.get(sb.id); !ok {
		return nil // another call was faster
	}
	if err := s.stopSandbox(ctx, sb); err != nil {
		return err
	}
	s.markSandbox(sb, func(rec *record.Sandbox) { rec.State = record.Removing })
	var group errgroup.Group
	removing, removed := operation.Stage(ctx, "remove containers")
	for _, c := range sb.all() {
		group.Go(func() error { return s.removeContainer(removing, c) })
	}
	err := group.Wait()
	removed(err)
	if err != nil {
		return err
	}
	s.opts.Network.Release(ctx, sb.id)
	if err := s.deleteSandboxRecord(sb.id); err != nil {
		return err
	}
	turn := s.plugins.begin()
	defer turn.End()
	s.sandboxes.remove(sb.id, sb.key)
	s.plugins.podRemoved(ctx, turn, sb)
	turn.End()
	s.runs.Forget(sb.key)
	s.usage.forget(sb.id)
	s.tellSandbox(sb, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}
