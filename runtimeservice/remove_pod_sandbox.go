package runtimeservice

import (
	"context"
	"fmt"

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
	if err := s.deleteRecordOf(sb); err != nil {
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

// deleteRecordOf deletes the record of a sandbox in the table, for good: background work
// and pulls may still have something to note in it.
func (s *Service) deleteRecordOf(sb *sandbox) error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if err := s.deleteSandboxRecord(sb.id); err != nil {
		return err
	}
	sb.removed = true
	return nil
}

// deleteSandboxRecord deletes the record and gives back the SELinux level; idempotent.
func (s *Service) deleteSandboxRecord(id string) error {
	if err := s.sandboxRecords.Delete(id); err != nil {
		return err
	}
	s.opts.Labels.Release(id)
	return nil
}

// purgeSandbox removes what a sandbox of that ID may have, its record last; idempotent. It
// is not in the table.
func (s *Service) purgeSandbox(ctx context.Context, id string) error {
	s.detachNetwork(ctx, id)
	s.opts.Network.Release(ctx, id)
	if err := s.opts.Processes.Delete(ctx, id); err != nil {
		return fmt.Errorf("end the pod's init: %w", err)
	}
	if err := s.removeSandboxDir(ctx, id); err != nil {
		return err
	}
	return s.deleteSandboxRecord(id)
}
