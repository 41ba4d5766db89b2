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
	"github.com/berth-cri/berth/runtimeservice/record"
)

// RestorePod makes a sandbox and containers of the checkpoint of a pod, which it copies
// and does not change. The containers are created; each goes on from where it was when it
// is started. What the request says of a process has to be what the checkpoint was of, or
// it is ErrFailedPrecondition.
//
// After an error, and when ctx ends, the sandbox and all containers are removed before it
// returns; what a kill leaves is removed by the next start.
func (s *Service) RestorePod(ctx context.Context, req *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, runSandboxTimeout)
	defer cancel()
	s.background.begin()
	defer s.background.end()
	resp, err := s.restorePod(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("restore pod %s: %w", sandboxKeyOf(req.GetConfig().GetMetadata()), err)
	}
	return resp, nil
}

func (s *Service) restorePod(ctx context.Context, req *runtimeapi.RestorePodRequest) (_ *runtimeapi.RestorePodResponse, err error) {
	if _, err := criuOptions(req.GetOptions()); err != nil {
		return nil, err
	}
	runtime, err := s.opts.Handlers.Resolve(req.GetRuntimeHandler())
	if err != nil {
		return nil, fmt.Errorf("runtime_handler: %w", err)
	}
	if err := uniqueNames(req.GetContainerConfigs()); err != nil {
		return nil, err
	}
	stage := s.checkpointDir(newID())
	defer func() { err = errors.Join(err, removeDump(stage)) }()
	pod, err := s.readPod(ctx, req.GetCheckpointPath(), stage)
	if err != nil {
		return nil, err
	}
	if pod.Runtime != runtime {
		return nil, fmt.Errorf("runtime_handler: the checkpoint is of handler %q, not %q: %w", pod.Runtime, runtime, errdefs.ErrFailedPrecondition)
	}
	sources, err := s.podSources(req.GetContainerConfigs(), pod, stage)
	defer func() {
		for _, from := range sources {
			s.dropSource(from)
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, from := range sources {
		from.exact, from.options = true, req.GetOptions()
	}
	return s.makePod(ctx, req, sources)
}

// uniqueNames checks the names of the containers.
func uniqueNames(configs []*runtimeapi.ContainerConfig) error {
	if len(configs) == 0 {
		return invalid("container_configs", "must not be empty")
	}
	seen := map[string]bool{}
	for i, config := range configs {
		name := config.GetMetadata().GetName()
		if name == "" || seen[name] {
			return invalid(fmt.Sprintf("container_configs[%d].metadata.name", i), "%q is empty, or that of another container too", name)
		}
		seen[name] = true
	}
	return nil
}

// readPod copies a pod's checkpoint to stage.
func (s *checkpoints) readPod(ctx context.Context, from, stage string) (*checkpoint.Pod, error) {
	if err := requireCleanPath("checkpoint_path", from); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(from); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("checkpoint_path: %q: %w", from, errdefs.ErrNotFound)
	} else if err == nil && !info.IsDir() {
		return nil, invalid("checkpoint_path", "%q is not a directory", from)
	}
	if err := os.Mkdir(stage, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of checkpoint: %w", err)
	}
	if err := operation.Do(ctx, "read checkpoint", func(ctx context.Context) error { return checkpoint.Copy(ctx, from, stage) }); err != nil {
		return nil, fmt.Errorf("checkpoint_path: %w", err)
	}
	pod, err := checkpoint.ReadPod(stage)
	if err != nil {
		return nil, fmt.Errorf("checkpoint_path: %w", err)
	}
	return pod, nil
}

// podSources are the checkpoints of the containers, in the order of the request. The names
// have to be the same ones.
func (s *checkpoints) podSources(configs []*runtimeapi.ContainerConfig, pod *checkpoint.Pod, stage string) ([]*source, error) {
	if len(configs) != len(pod.Containers) {
		return nil, invalid("container_configs", "there are %d, and the checkpoint has %d containers", len(configs), len(pod.Containers))
	}
	var sources []*source
	for i, config := range configs {
		name := config.GetMetadata().GetName()
		at := slices.Index(pod.Containers, name)
		if at < 0 {
			return sources, invalid(fmt.Sprintf("container_configs[%d].metadata.name", i), "the checkpoint has no container %q", name)
		}
		from, err := s.newSource(func(_, dir string) error {
			// Not over a directory, be it empty.
			if err := os.Remove(dir); err != nil {
				return err
			}
			return os.Rename(checkpoint.Dir(stage, at), dir)
		})
		if err != nil {
			return sources, fmt.Errorf("checkpoint_path: container %q: %w", name, err)
		}
		sources = append(sources, from)
	}
	return sources, nil
}

// makePod makes the sandbox and the containers, or removes what it has made.
func (s *Service) makePod(ctx context.Context, req *runtimeapi.RestorePodRequest, sources []*source) (_ *runtimeapi.RestorePodResponse, err error) {
	key := sandboxKeyOf(req.GetConfig().GetMetadata())
	if id, exists := s.sandboxes.named(key); exists {
		return nil, fmt.Errorf("sandbox exists with ID %s: %w", id, errdefs.ErrAlreadyExists)
	}
	// A sandbox that appeared when nobody waits for it any more would be nobody's.
	id, mine, err := s.runPodSandbox(context.WithoutCancel(ctx), req.GetConfig(), req.GetRuntimeHandler(), true)
	if err != nil {
		return nil, err
	}
	if !mine {
		return nil, fmt.Errorf("sandbox exists with ID %s: %w", id, errdefs.ErrAlreadyExists)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.RemovePodSandbox(context.WithoutCancel(ctx), id))
		}
	}()
	sb, err := s.sandboxes.find(id)
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.RestorePodResponse{PodSandboxId: id}
	for i, config := range req.GetContainerConfigs() {
		created, err := s.createFrom(ctx, sb, config, sources[i])
		if err != nil {
			return nil, fmt.Errorf("container_configs[%d]: %w", i, err)
		}
		resp.RestoredContainers = append(resp.RestoredContainers, &runtimeapi.RestoredContainer{
			Name: config.GetMetadata().GetName(), ContainerId: created,
		})
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return resp, sb.update(func(rec *record.Sandbox) { rec.Restoring = false })
}

// createFrom is CreateContainer for a container of a pod that is restored.
func (s *Service) createFrom(ctx context.Context, sb *sandbox, config *runtimeapi.ContainerConfig, from *source) (string, error) {
	if err := validateContainer(sb, config); err != nil {
		return "", err
	}
	if filepath.IsAbs(config.GetImage().GetImage()) {
		return "", invalid("image.image", "%q is not the name of an image", config.GetImage().GetImage())
	}
	if err := sb.join(ctx); err != nil {
		return "", err
	}
	defer sb.leave()
	ctx, timings := collectStart(ctx)
	id, err := s.createContainer(ctx, sb, config, timings, from)
	if err == nil {
		s.containerDelivered(id)
	}
	return id, err
}
