package runtimeservice

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/selinux"
)

// Start takes up what the last run of the daemon left: it reads the records,
// connects to the monitor and brings both together. When it returns all that
// runs is known to run and all that ended has ended; what is half-made or
// nobody's is removed by Run.
//
// It is called once, before anything else, and does nothing that takes long: no
// mount, no program, no network.
func (s *Service) Start(ctx context.Context) error {
	sandboxRecs, err := s.sandboxRecords.Load()
	if err != nil {
		return fmt.Errorf("load sandboxes: %w", err)
	}
	containerRecs, err := s.containerRecords.Load()
	if err != nil {
		return fmt.Errorf("load containers: %w", err)
	}
	if err := s.takeUpSandboxes(sandboxRecs); err != nil {
		return err
	}
	if err := s.takeUpContainers(containerRecs); err != nil {
		return err
	}
	// From here on HandleExit is called.
	running, err := s.connectMonitor(ctx)
	if err != nil {
		return err
	}
	if err := s.compare(running); err != nil {
		return err
	}
	if err := s.findOrphans(ctx, running); err != nil {
		return err
	}
	s.releaseUnknownPods(ctx)
	if err := s.clearCheckpoints(); err != nil {
		return err
	}
	if s.userNamespaces = s.probeUserNamespaces(); s.userNamespaces != nil {
		s.log.Warn("pods cannot have user namespaces", "reason", s.userNamespaces)
	}
	return nil
}

// connectTimeout bounds the wait for a monitor that does not answer: a start that
// fails with its reason can be acted on, one that hangs cannot.
const connectTimeout = 30 * time.Second

// connectMonitor returns what the monitor runs.
func (s *Service) connectMonitor(ctx context.Context) ([]monitor.Container, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.ConnectTimeout,
		fmt.Errorf("it has not answered for %s", s.opts.ConnectTimeout))
	defer cancel()
	if err := s.opts.Processes.Connect(ctx); err != nil {
		return nil, fmt.Errorf("connect to the monitor: %w", withCause(ctx, err))
	}
	running, err := s.opts.Processes.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list what the monitor runs: %w", withCause(ctx, err))
	}
	return running, nil
}

// withCause adds why the context ended to the error that came of it.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// takeUpSandboxes fills the table with what is or was ready, and leaves the rest
// to Run.
func (s *Service) takeUpSandboxes(recs map[string]*record.Sandbox) error {
	for id, rec := range recs {
		s.opts.Labels.Hold(id, selinux.Labels{Process: rec.ProcessLabel, File: rec.FileLabel})
		sb, err := sandboxFromRecord(rec, s.sandboxRecords)
		if err != nil || rec.State == record.Creating || rec.ID != id {
			if err != nil {
				s.log.Error("take up sandbox; what it has is removed", "sandbox", id, "error", err)
			}
			s.leave(leftover{id: id, purge: s.purgeSandbox})
			continue
		}
		s.sandboxes.add(sb.id, sb.key, sb)
		if err := s.takeUpSandbox(sb); err != nil {
			return fmt.Errorf("take up sandbox %s: %w", id, err)
		}
	}
	return nil
}

func (s *Service) takeUpSandbox(sb *sandbox) error {
	rec := sb.rec.Load()
	if rec.State == record.Ready {
		if why := s.sandboxLoss(rec); why != "" {
			s.log.Warn("sandbox is not ready any more", "sandbox", sb.id, "reason", why)
			err := sb.update(func(rec *record.Sandbox) { rec.State, rec.Reason = record.Stopped, why })
			if err != nil {
				return err
			}
		} else if !rec.Delivered && !rec.Restoring {
			s.runs.Keep(sb.key, sb.id)
		}
	}
	switch rec := sb.rec.Load(); {
	case rec.State == record.Removing || rec.Restoring:
		// Nobody was told of one that was being restored.
		s.leave(leftover{id: sb.id, purge: func(ctx context.Context, _ string) error {
			return s.whole(ctx, sb, s.removeSandbox)
		}})
	case rec.State == record.Stopped && !rec.Released:
		s.leave(leftover{id: sb.id, purge: func(ctx context.Context, _ string) error {
			return s.whole(ctx, sb, s.releaseSandbox)
		}})
	}
	return nil
}

// whole calls fn as the only one who uses the sandbox.
func (s *Service) whole(ctx context.Context, sb *sandbox, fn func(context.Context, *sandbox) error) error {
	if err := sb.members.Acquire(ctx, wholeSandbox); err != nil {
		return err
	}
	defer sb.members.Release(wholeSandbox)
	return fn(ctx, sb)
}

// sandboxLoss says why a sandbox that was ready is not any more; empty if it is.
// The kernel is asked, not only the boot ID: a container that is a node keeps
// that over its restart.
func (s *Service) sandboxLoss(rec *record.Sandbox) string {
	if rec.BootID != s.opts.BootID {
		return "the node was rebooted"
	}
	pins := s.opts.Namespaces.Find(s.sandboxDir(rec.ID))
	found := make(map[string]bool, len(pins))
	for kind := range pins {
		found[string(kind)] = true
	}
	for kind := range rec.Namespaces {
		if !found[kind] {
			return fmt.Sprintf("its %s namespace is gone", kind)
		}
	}
	if _, err := os.Stat(s.sandboxDir(rec.ID)); err != nil {
		return "its files are gone"
	}
	return ""
}

// takeUpContainers fills the table. What became of those that ran is not known
// yet.
func (s *Service) takeUpContainers(recs map[string]*record.Container) error {
	for id, rec := range recs {
		s.opts.Labels.Hold(id, selinux.Labels{Process: rec.ProcessLabel, File: rec.FileLabel})
		sb, ok := s.sandboxes.get(rec.SandboxID)
		if !ok || rec.State == record.Creating || rec.ID != id {
			s.leave(leftover{id: id, purge: s.purgeContainer})
			continue
		}
		c, err := newContainer(rec, sb, s.containerRecords)
		if err != nil {
			s.log.Error("take up container; what it has is removed", "container", id, "error", err)
			s.leave(leftover{id: id, purge: s.purgeContainer})
			continue
		}
		s.containers.add(c.id, c.key, c)
		sb.addContainer(c)
		if rec.State == record.Removing {
			s.leave(leftover{id: id, purge: func(ctx context.Context, _ string) error { return s.removeContainer(ctx, c) }})
		}
		if rec.State == record.Created && !rec.Delivered && rec.BootID == s.opts.BootID {
			s.creates.Keep(c.key, c.id)
		}
	}
	return nil
}

// compare brings the records of containers together with what the monitor has.
func (s *Service) compare(running []monitor.Container) error {
	known := make(map[string]monitor.Container, len(running))
	for _, m := range running {
		known[m.ID] = m
	}
	for _, c := range s.containers.all() {
		m, ok := known[c.id]
		switch rec := c.rec.Load(); {
		case rec.State == record.Removing:
		case rec.State == record.Exited:
			// Where the monitor has nothing of it only the mount may be left.
			s.leave(leftover{id: c.id, purge: func(ctx context.Context, _ string) error { return s.releaseContainer(ctx, c) }})
		case ok && m.Exit != nil:
			s.exitedWith(c, *m.Exit)
		case ok:
			// The daemon may have died between the start and its record.
			if err := s.startedWith(c, monitor.Started{Pid: m.Pid, StartedAt: m.StartedAt}, nil); err != nil {
				return fmt.Errorf("take up container %s: %w", c.id, err)
			}
		case rec.State == record.Created && rec.BootID == s.opts.BootID && c.sandbox.requireReady() == nil:
		default:
			s.exitedWith(c, lostExit(c.id, s.containerLoss(rec)))
		}
	}
	for _, sb := range s.sandboxes.all() {
		if m, ok := known[sb.id]; ok && m.Exit != nil {
			s.podInitExited(sb, *m.Exit)
		} else if !ok && sb.rec.Load().PodInit {
			s.podInitExited(sb, lostExit(sb.id, "the monitor knows nothing of it"))
		}
	}
	return nil
}

func (s *Service) containerLoss(rec *record.Container) string {
	switch {
	case rec.BootID != s.opts.BootID:
		return "the node was rebooted"
	case rec.State == record.Created:
		return "its sandbox ended before it was started"
	default:
		return "the monitor knows nothing of it any more"
	}
}

// findOrphans finds what has no record: directories of sandboxes and containers,
// root file systems, processes. It is called before any call can make new ones.
func (s *Service) findOrphans(ctx context.Context, running []monitor.Container) error {
	rootfs, err := s.opts.RootFilesystems.Rootfs(ctx)
	if err != nil {
		return fmt.Errorf("list root file systems: %w", err)
	}
	sandboxDirs, err := idsIn(s.sandboxesDir())
	if err != nil {
		return err
	}
	containerDirs, err := idsIn(s.containersDir())
	if err != nil {
		return err
	}
	ids := append(rootfs, containerDirs...)
	for _, m := range running {
		ids = append(ids, m.ID)
	}
	seen := make(map[string]bool)
	for _, id := range ids {
		_, isContainer := s.containers.get(id)
		_, isSandbox := s.sandboxes.get(id)
		if !isContainer && !isSandbox && !seen[id] {
			seen[id] = true
			s.log.Info("remove what belongs to no container", "id", id)
			s.leave(leftover{id: id, purge: s.purgeContainer})
		}
	}
	for _, id := range sandboxDirs {
		if _, ok := s.sandboxes.get(id); !ok {
			s.log.Info("remove what belongs to no sandbox", "id", id)
			s.leave(leftover{id: id, purge: s.purgeSandbox})
		}
	}
	return nil
}

// releaseUnknownPods gives up the networks of pods that have no record, and no
// leftover that would do it: the record was lost, or removed just before the
// daemon was killed. A network that cannot tell has its reason in Status, and pods
// that run do not depend on it.
func (s *Service) releaseUnknownPods(ctx context.Context) {
	pods, err := s.opts.Network.Pods()
	if err != nil {
		s.log.Error("list pods on the network", "error", err)
		return
	}
	for _, id := range pods {
		if _, ok := s.sandboxes.get(id); !ok {
			s.log.Info("release the network of a pod without a sandbox", "sandbox", id)
			s.opts.Network.Release(ctx, id)
		}
	}
}

// idsIn lists the IDs that a directory has entries for. Other names are not ours.
func idsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	var ids []string
	for _, entry := range entries {
		if isID(entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}
