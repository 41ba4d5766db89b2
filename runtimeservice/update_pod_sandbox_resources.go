package runtimeservice

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/record"
)

// podResources are the resources of a whole pod. The messages are not changed
// any more. What they say is in force in the pod's cgroup, which is the
// kubelet's own: it writes there before it tells.
type podResources struct {
	overhead, resources *runtimeapi.LinuxContainerResources
}

// UpdatePodSandboxResources takes note of the resources of a pod, as the kubelet
// has set them, so that they are what a verbose status shows and what is there
// after a restart. A part that the request leaves out stays as it was.
// ErrNotFound if there is no such sandbox, ErrFailedPrecondition if it is not
// ready.
func (s *Service) UpdatePodSandboxResources(ctx context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	sb, err := s.sandboxes.find(req.GetPodSandboxId())
	if err != nil {
		return err
	}
	aboutSandbox(ctx, sb)
	if err := sb.join(ctx); err != nil {
		return fmt.Errorf("update resources: %w", err)
	}
	defer sb.leave()
	turn := s.plugins.begin()
	defer turn.End()
	if err := s.plugins.podUpdates(ctx, turn, sb, req); err != nil {
		return fmt.Errorf("update resources of sandbox %s: %w", sb.id, err)
	}
	if err := sb.updateResources(req); err != nil {
		return fmt.Errorf("update resources of sandbox %s: %w", sb.id, err)
	}
	s.plugins.podUpdated(ctx, turn, sb)
	return nil
}

func (sb *sandbox) updateResources(req *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	overhead, err := marshalResources(req.GetOverhead())
	if err != nil {
		return err
	}
	resources, err := marshalResources(req.GetResources())
	if err != nil {
		return err
	}
	sb.updating.Lock()
	defer sb.updating.Unlock()
	err = sb.update(func(rec *record.Sandbox) {
		if overhead != nil {
			rec.Overhead = overhead
		}
		if resources != nil {
			rec.Resources = resources
		}
	})
	if err != nil {
		return err
	}
	next := *sb.resources.Load()
	if req.GetOverhead() != nil {
		next.overhead = req.GetOverhead()
	}
	if req.GetResources() != nil {
		next.resources = req.GetResources()
	}
	sb.resources.Store(&next)
	return nil
}

// marshalResources is nil for none, and never for some.
func marshalResources(r *runtimeapi.LinuxContainerResources) ([]byte, error) {
	if r == nil {
		return nil, nil
	}
	// All zero is no bytes, which a record would take for none.
	raw, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 0, 1), r)
	if err != nil {
		return nil, fmt.Errorf("encode resources: %w", err)
	}
	return raw, nil
}

// updated are the resources after what the record has of an update.
func (p podResources) updated(rec *record.Sandbox) (*podResources, error) {
	for _, part := range []struct {
		raw []byte
		to  **runtimeapi.LinuxContainerResources
	}{{rec.Overhead, &p.overhead}, {rec.Resources, &p.resources}} {
		if part.raw == nil {
			continue
		}
		read := &runtimeapi.LinuxContainerResources{}
		if err := proto.Unmarshal(part.raw, read); err != nil {
			return nil, err
		}
		*part.to = read
	}
	return &p, nil
}

// configInForce is the configuration with the resources of the last update.
func (sb *sandbox) configInForce() *runtimeapi.PodSandboxConfig {
	now := sb.resources.Load()
	if now.overhead == sb.config.GetLinux().GetOverhead() && now.resources == sb.config.GetLinux().GetResources() {
		return sb.config
	}
	config := proto.Clone(sb.config).(*runtimeapi.PodSandboxConfig)
	if config.Linux == nil {
		config.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	config.Linux.Overhead, config.Linux.Resources = now.overhead, now.resources
	return config
}
