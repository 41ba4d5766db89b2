package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/checkpoint"
)

// CheckpointPod writes a checkpoint of running containers of a ready sandbox into an
// existing, empty directory: all of them as they are at one instant. It takes no longer
// than ctx's deadline, and two minutes without one. After an error the directory is empty
// again, and on any outcome all containers go on before it returns.
func (s *checkpoints) CheckpointPod(ctx context.Context, req *runtimeapi.CheckpointPodRequest) error {
	sb, err := s.sandboxes.find(req.GetPodSandboxId())
	if err != nil {
		return err
	}
	aboutSandbox(ctx, sb)
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	// The answer has to come in time.
	ctx, soon := context.WithDeadline(ctx, deadline.Add(-thawMargin))
	defer soon()
	if err := s.checkpointPod(ctx, sb, req); err != nil {
		return fmt.Errorf("checkpoint sandbox %s: %w", sb.id, err)
	}
	return nil
}

func (s *checkpoints) checkpointPod(ctx context.Context, sb *sandbox, req *runtimeapi.CheckpointPodRequest) (err error) {
	s.background.begin()
	defer s.background.end()
	options, err := criuOptions(req.GetOptions())
	if err != nil {
		return err
	}
	if err := sb.join(ctx); err != nil {
		return err
	}
	defer sb.leave()
	selected, err := s.selectForCheckpoint(sb, req.GetContainerIds())
	if err != nil {
		return err
	}
	output := req.GetOutputPath()
	if err := emptyDirectory(output); err != nil {
		return err
	}
	job, err := s.beginCheckpoint(checkpointJob{Output: output, Mark: ".berth-checkpoint-" + newID() + ".partial"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.endCheckpoint(job)) }()
	mark := filepath.Join(output, job.Mark)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return fmt.Errorf("output_path: %w", err)
	}
	pod := checkpoint.Pod{Runtime: sb.rec.Load().Runtime}
	var all []dumped
	for i, c := range selected {
		pod.Containers = append(pod.Containers, c.key.name)
		all = append(all, dumped{c, checkpoint.Dir(output, i)})
	}
	if err := s.dumpAll(ctx, all, options); err != nil {
		return err
	}
	return operation.Do(ctx, "write checkpoint", func(ctx context.Context) error {
		if err := errors.Join(checkpoint.WritePod(output, pod), checkpoint.Sync(ctx, output)); err != nil {
			return err
		}
		return os.Remove(mark)
	})
}

// selectForCheckpoint finds the containers that a request names, each once.
func (s *checkpoints) selectForCheckpoint(sb *sandbox, ids []string) ([]*container, error) {
	if len(ids) == 0 {
		return nil, invalid("container_ids", "must not be empty")
	}
	var selected []*container
	for i, id := range ids {
		field := fmt.Sprintf("container_ids[%d]", i)
		c, err := s.containers.find(id)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", field, err)
		case c.sandbox != sb:
			return nil, invalid(field, "container %s is of another sandbox", c.id)
		case slices.Contains(selected, c):
			return nil, invalid(field, "container %s is named twice", c.id)
		}
		if err := c.requireCheckpointable(); err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		for _, other := range selected {
			if other.key.name == c.key.name {
				return nil, invalid(field, "the name %q is that of another container too", c.key.name)
			}
		}
		selected = append(selected, c)
	}
	return selected, nil
}

// emptyDirectory refuses a path that is not that of an empty directory.
func emptyDirectory(path string) error {
	if err := requireCleanPath("output_path", path); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("output_path: %q does not exist: %w", path, errdefs.ErrFailedPrecondition)
	case err != nil:
		return fmt.Errorf("output_path: %w", err)
	case !info.IsDir():
		return invalid("output_path", "%q is not a directory", path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("output_path: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("output_path: %q is not empty: %w", path, errdefs.ErrFailedPrecondition)
	}
	return nil
}
