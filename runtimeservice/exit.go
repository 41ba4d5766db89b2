package runtimeservice

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// Reasons of a container's state, as the CRI text and Kubernetes have them.
const (
	reasonCompleted = "Completed"
	reasonError     = "Error"
	reasonOOMKilled = "OOMKilled"
	reasonCannotRun = "ContainerCannotRun"
	// reasonUnknown is of a container whose end nobody saw.
	reasonUnknown = "Unknown"
)

// unknownExitCode is the exit code of a process whose end nobody saw.
const unknownExitCode = 255

// lostExit is the end of a process that nobody saw.
func lostExit(id, why string) monitor.Exit {
	return monitor.Exit{ID: id, Code: unknownExitCode, ExitedAt: time.Now(), Unknown: true, Reason: why}
}

// HandleExit takes note of the end of a container's process, or of a pod's init:
// when it returns the end is on record. It is the monitor's client that calls
// it, also for what ended while the daemon was away.
func (s *Service) HandleExit(exit monitor.Exit) {
	if c, ok := s.containers.get(exit.ID); ok {
		s.exitedWith(c, exit)
		return
	}
	if sb, ok := s.sandboxes.get(exit.ID); ok {
		s.podInitExited(sb, exit)
		return
	}
	s.log.Debug("end of a process that nobody knows any more", "id", exit.ID, "code", exit.Code)
}

// exitedWith records the end of a container's process; a second time it does
// nothing.
func (s *Service) exitedWith(c *container, exit monitor.Exit) {
	err := s.end(c, func(rec *record.Container) {
		rec.FinishedAt = exit.ExitedAt.UnixNano()
		rec.ExitCode = int32(exit.Code)
		rec.Reason, rec.Message = exitReason(exit)
	})
	if err != nil {
		s.log.Error("record the end of a container; it is tried again", "container", c.id, "error", err)
	}
	s.releaseEnded(c)
}

// releaseEnded gives back what an ended process leaves, and tells plugins of its end,
// in the background.
func (s *Service) releaseEnded(c *container) {
	s.inBackground("release container", func(ctx context.Context) error {
		aboutContainer(ctx, c)
		err := s.releaseContainer(ctx, c)
		s.plugins.containerEnded(ctx, c)
		return err
	})
}

func exitReason(exit monitor.Exit) (reason, message string) {
	switch {
	case exit.Unknown:
		return reasonUnknown, exit.Reason
	case exit.Code == 0:
		return reasonCompleted, ""
	case exit.OOMKilled:
		return reasonOOMKilled, exit.Reason
	default:
		return reasonError, exit.Reason
	}
}

// end makes the container an exited one. In memory it is that also when the disk
// did not take it: then the monitor keeps the end until it was written.
func (s *Service) end(c *container, how func(*record.Container)) error {
	c.mu.Lock()
	before := c.rec.Load()
	if before.State == record.Exited || before.State == record.Removing {
		c.mu.Unlock()
		return nil
	}
	next := *before
	how(&next)
	next.State = record.Exited
	next.Pid = 0
	if next.StartedAt == 0 && next.Reason != reasonCannotRun {
		// Ended before its start was recorded: startedWith sets the real time.
		next.StartedAt = next.FinishedAt
	}
	err := c.store.Put(c.id, &next)
	c.unsaved = err != nil
	c.show(&next)
	close(c.exited)
	c.mu.Unlock()

	if before.State == record.Created && next.Reason != reasonCannotRun {
		s.tellContainer(c, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	}
	s.tellContainer(c, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	return err
}

// needsSaving tells whether the end of the container is in memory only.
func (c *container) needsSaving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unsaved
}

// saveEnd writes the end of the container if it is in memory only; else saved is false.
func (c *container) saveEnd() (saved bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.unsaved {
		return false, nil
	}
	if err := c.store.Put(c.id, c.rec.Load()); err != nil {
		return false, err
	}
	c.unsaved = false
	return true, nil
}

// retryUnsavedEvery is how often the end of a container that the disk did not
// take is tried again.
const retryUnsavedEvery = 5 * time.Second

func (s *Service) retryUnsaved(ctx context.Context) {
	tick := time.NewTicker(retryUnsavedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, c := range s.containers.all() {
			saved, err := c.saveEnd()
			if err != nil {
				s.log.Error("write the record of an exited container", "container", c.id, "error", err)
			}
			if saved {
				s.inBackground("release container", func(ctx context.Context) error { return s.releaseContainer(ctx, c) })
			}
		}
	}
}

// releaseContainer gives back what an ended process leaves: other processes of
// its cgroup, the cgroup, what the monitor keeps, the mount. It is idempotent.
func (s *Service) releaseContainer(ctx context.Context, c *container) error {
	if err := c.releasing.acquire(ctx); err != nil {
		return err
	}
	defer c.releasing.release()
	if c.released {
		return nil
	}
	if c.needsSaving() {
		return nil // what the monitor keeps is all there is; retryUnsaved comes back
	}
	if err := operation.Do(ctx, "remove processes", func(ctx context.Context) error { return s.opts.Processes.Delete(ctx, c.id) }); err != nil {
		return fmt.Errorf("remove processes of container %s: %w", c.id, err)
	}
	if err := operation.Do(ctx, "unmount", func(ctx context.Context) error { return s.opts.RootFilesystems.UnmountRootfs(ctx, c.id) }); err != nil {
		return fmt.Errorf("unmount root file system of container %s: %w", c.id, err)
	}
	c.released = true
	return nil
}

// podInitExited ends the readiness of a sandbox: no container can be started in
// a PID namespace whose init is gone, and those that ran there were killed.
func (s *Service) podInitExited(sb *sandbox, exit monitor.Exit) {
	if sb.rec.Load().State != record.Ready {
		return // it was we who ended it
	}
	reason, _ := exitReason(exit)
	err := sb.update(func(rec *record.Sandbox) {
		if rec.State == record.Ready {
			rec.State = record.Stopped
			rec.Reason = fmt.Sprintf("the init of the pod's PID namespace ended: %s, exit code %d", reason, exit.Code)
		}
	})
	if errdefs.IsNotFound(err) {
		return // removed meanwhile
	}
	if err != nil {
		s.log.Error("record the end of a pod's init", "sandbox", sb.id, "error", err)
		return
	}
	s.log.Warn("sandbox is not ready any more: its init ended", "sandbox", sb.id, "code", exit.Code, "reason", reason)
	s.tellSandbox(sb, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}
