package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// StartContainer starts a created container and returns when its process runs.
//
// A call while one is under way waits for that one and returns its result, as
// does one after a start whose caller had gone. A container that runs or has
// ended is ErrFailedPrecondition. After an error of a plugin, or of the process's
// start, the container has exited, with the reason ContainerCannotRun and the error
// as its message; after one that came before it is still created.
func (s *Service) StartContainer(ctx context.Context, id string) error {
	c, err := s.containers.find(id)
	if err != nil {
		return err
	}
	aboutContainer(ctx, c)
	_, err = s.starts.Do(ctx, c.id, func(ctx context.Context) (struct{}, error) {
		s.background.begin()
		defer s.background.end()
		ctx, cancel := context.WithTimeout(ctx, startContainerTimeout)
		defer cancel()
		return struct{}{}, s.startContainer(ctx, c)
	})
	return err
}

func (s *Service) startContainer(ctx context.Context, c *container) error {
	if err := c.sandbox.join(ctx); err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	defer c.sandbox.leave()
	if err := c.op.acquire(ctx); err != nil {
		return fmt.Errorf("start container %s: wait for other calls: %w", c.id, err)
	}
	defer c.op.release()
	ctx, timings := collectStart(ctx)
	if state := c.state(); state != record.Created {
		return fmt.Errorf("start container %s: it is %s, only a created container can be started: %w", c.id, state, errdefs.ErrFailedPrecondition)
	}
	if err := c.plugins.acquire(ctx); err != nil {
		return fmt.Errorf("start container %s: wait for plugins: %w", c.id, err)
	}
	defer c.plugins.release()
	if err := operation.Do(ctx, stagePlugins, func(ctx context.Context) error { return s.plugins.containerStarts(ctx, c) }); err != nil {
		return s.startFailed(ctx, c, fmt.Errorf("start container %s: %w", c.id, err), timings)
	}
	if err := s.startProcess(ctx, c, timings); err != nil {
		return err
	}
	s.plugins.containerStarted(ctx, c)
	return nil
}

// startProcess is called with c.op held.
func (s *Service) startProcess(ctx context.Context, c *container, timings *operation.Timings) error {
	if err := c.limits.acquire(ctx); err != nil {
		return fmt.Errorf("start container %s: wait for an update: %w", c.id, err)
	}
	defer c.limits.release()
	ociSpec, err := s.specToStart(c)
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	handler, err := s.handlerOf(ctx, c.sandbox.rec.Load())
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	restore, err := s.restoreOf(c)
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	clients := c.takeEarly()
	starting, began := operation.Stage(ctx, stageStart)
	var started monitor.Started
	if err = s.opts.Host.ProbeSources(starting, ociSpec); err == nil {
		started, err = s.opts.Processes.Start(starting, monitor.StartRequest{
			ID:            c.id,
			Spec:          ociSpec,
			SystemdCgroup: s.opts.SystemdCgroup,
			LogPath:       c.rec.Load().LogPath,
			Stdin:         c.config.GetStdin(),
			StdinOnce:     c.config.GetStdinOnce(),
			Runtime:       s.monitorRuntime(handler),
			Attach:        attachRequests(clients),
			Restore:       restore,
		})
	}
	began(err)
	tellStarted(clients, started, err)
	c.spec = nil
	if err != nil {
		return s.startFailed(ctx, c, err, timings)
	}
	s.restoredFrom(c)
	return s.startedWith(c, started, timings)
}

// specToStart is the specification as it holds now.
func (s *Service) specToStart(c *container) (*specs.Spec, error) {
	ociSpec := c.spec
	if ociSpec == nil {
		var err error
		if ociSpec, err = s.specs.Get(c.id); err != nil {
			return nil, err
		}
	}
	config := &runtimeapi.ContainerConfig{}
	if err := proto.Unmarshal(c.rec.Load().Config, config); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	target := pidTarget(config)
	if target == "" {
		return ociSpec, nil
	}
	// The target can have ended since the container was created, and its PID
	// can be somebody else's now.
	path, err := s.targetPIDNamespace(c.sandbox, target)
	if err != nil {
		return nil, err
	}
	next := *ociSpec
	linux := *ociSpec.Linux
	linux.Namespaces = slices.Clone(linux.Namespaces)
	for i := range linux.Namespaces {
		if linux.Namespaces[i].Type == specs.PIDNamespace {
			linux.Namespaces[i].Path = path
		}
	}
	next.Linux = &linux
	return &next, nil
}

// startedWith records a start. The process can have ended before: then its end
// stays, and only the time of its start is filled in.
func (s *Service) startedWith(c *container, started monitor.Started, timings *operation.Timings) error {
	var runs bool
	steps := s.startSteps(timings)
	err := c.update(func(rec *record.Container) {
		rec.Start = append(slices.Clip(rec.Start), steps...)
		rec.StartedAt, rec.Pid = started.StartedAt.UnixNano(), started.Pid
		if runs = rec.State == record.Created; runs {
			rec.State = record.Running
		}
	})
	if err != nil {
		// Running without a record is worse than not running.
		return s.startFailed(context.Background(), c, err, timings)
	}
	if runs {
		s.tellContainer(c, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	}
	return nil
}

// Exit codes of a container whose process could not be started, as shells and
// other runtimes have them.
const (
	exitCannotExecute = 126
	exitNotFound      = 127
	exitCannotStart   = 128
)

// startFailed makes sure that nothing runs and records why; it returns the error
// of the start, which names the container.
func (s *Service) startFailed(ctx context.Context, c *container, cause error, timings *operation.Timings) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	deleted := s.opts.Processes.Delete(ctx, c.id)
	if deleted != nil {
		s.log.Error("remove what a failed start left", "container", c.id, "error", deleted)
	}
	recorded := s.end(c, func(rec *record.Container) {
		rec.Start = append(slices.Clip(rec.Start), failedSteps(timings, cause)...)
		rec.FinishedAt = time.Now().UnixNano()
		rec.ExitCode = startExitCode(cause)
		rec.Reason = reasonCannotRun
		rec.Message = cause.Error()
	})
	s.releaseEnded(c)
	return errors.Join(cause, recorded)
}

func startExitCode(err error) int32 {
	if !errors.Is(err, protocol.ErrCommand) {
		return exitCannotStart
	}
	text := err.Error()
	if strings.Contains(text, "not found") || strings.Contains(text, "no such file") {
		return exitNotFound
	}
	return exitCannotExecute
}
