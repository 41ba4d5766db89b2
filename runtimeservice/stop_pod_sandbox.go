package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// StopPodSandbox kills what runs in the sandbox and gives back its network, its
// namespaces and its files. It is idempotent; a sandbox that does not exist is
// stopped. A network that cannot be detached now is a debt of package cni and no
// error: the pod must not hang on it.
func (s *Service) StopPodSandbox(ctx context.Context, id string) error {
	return s.endSandbox(ctx, id, "stop", stopSandboxTimeout, s.stopSandbox)
}

// endSandbox lets nothing new begin in the sandbox, waits for what is under way in it, and
// calls end, which goes on when the caller goes away. A sandbox that does not exist has
// ended.
func (s *Service) endSandbox(ctx context.Context, id, verb string, timeout time.Duration, end func(context.Context, *sandbox) error) error {
	sb, err := s.sandboxes.find(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	aboutSandbox(ctx, sb)
	s.closeGate(sb)
	if err := sb.acquireMembers(ctx, wholeSandbox); err != nil {
		return fmt.Errorf("%s sandbox %s: wait for containers being made and for other calls: %w", verb, sb.id, err)
	}
	err = s.detached(ctx, timeout, func(ctx context.Context) error {
		defer sb.members.Release(wholeSandbox)
		return end(ctx, sb)
	})
	if err != nil {
		return fmt.Errorf("%s sandbox %s: %w", verb, sb.id, err)
	}
	return nil
}

// closeGate ends the sandbox's readiness: from now on no container is made or
// started in it.
func (s *Service) closeGate(sb *sandbox) {
	if sb.rec.Load().State != record.Ready {
		return
	}
	s.markSandbox(sb, func(rec *record.Sandbox) {
		if rec.State == record.Ready {
			rec.State = record.Stopped
			rec.Reason = "stopped"
		}
	})
}

// stopSandbox is called with the whole of sb.members.
func (s *Service) stopSandbox(ctx context.Context, sb *sandbox) error {
	var group errgroup.Group
	ctx, ended := operation.Stage(ctx, "stop containers")
	for _, c := range sb.all() {
		group.Go(func() error {
			if err := s.stopContainer(ctx, c, 0); err != nil {
				return fmt.Errorf("stop container %s: %w", c.id, err)
			}
			return nil
		})
	}
	err := group.Wait()
	ended(err)
	if err != nil {
		return err
	}
	return s.releaseSandbox(ctx, sb)
}

// releaseSandbox gives back what a stopped sandbox has; idempotent, and nothing
// to do when it was done before.
func (s *Service) releaseSandbox(ctx context.Context, sb *sandbox) error {
	rec := sb.rec.Load()
	if rec.Released {
		return nil
	}
	s.plugins.podStopped(ctx, sb)
	if rec.NetworkAttached {
		s.detachNetwork(ctx, sb.id)
	}
	var errs []error
	ctx, end := operation.Stage(ctx, "give back")
	defer func() { end(errors.Join(errs...)) }()
	if rec.PodInit {
		if err := s.opts.Processes.Delete(ctx, sb.id); err != nil {
			errs = append(errs, fmt.Errorf("end the pod's init: %w", err))
		}
	}
	errs = append(errs, s.removeSandboxDir(ctx, sb.id))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.markSandbox(sb, func(rec *record.Sandbox) {
		rec.NetworkAttached, rec.PodInit, rec.Released = false, false, true
	})
	s.tellSandbox(sb, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	return nil
}

// detachNetwork leaves a failure to the network, which has the debt on record.
func (s *Service) detachNetwork(ctx context.Context, id string) {
	if err := operation.Do(ctx, stageNetwork, func(ctx context.Context) error { return s.opts.Network.Detach(ctx, id) }); err != nil {
		s.log.Warn("detach sandbox from network; it stays a debt and is tried again", "sandbox", id, "error", err)
	}
}
