package nritest

import (
	"context"

	"github.com/containerd/nri/pkg/api"
)

// Configure keeps the configuration and subscribes to all events.
func (p *Plugin) Configure(_ context.Context, config, _, _ string) (api.EventMask, error) {
	p.Config = config
	return 0, nil
}

// Synchronize is the first event of a plugin.
func (p *Plugin) Synchronize(ctx context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	if err := p.told(ctx, "Synchronize", nil, nil); err != nil {
		return nil, err
	}
	var updates []*api.ContainerUpdate
	if p.Synced != nil {
		updates = p.Synced(pods, containers)
	}
	p.ready <- struct{}{}
	return updates, nil
}

// RunPodSandbox is told when a pod was made.
func (p *Plugin) RunPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.told(ctx, "RunPodSandbox", pod, nil)
}

// UpdatePodSandbox is told before a pod's resources change.
func (p *Plugin) UpdatePodSandbox(ctx context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
	return p.told(ctx, "UpdatePodSandbox", pod, nil)
}

// PostUpdatePodSandbox is told after that.
func (p *Plugin) PostUpdatePodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.told(ctx, "PostUpdatePodSandbox", pod, nil)
}

// StopPodSandbox is told when a pod's containers have ended.
func (p *Plugin) StopPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.told(ctx, "StopPodSandbox", pod, nil)
}

// RemovePodSandbox is told when a pod is gone.
func (p *Plugin) RemovePodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.told(ctx, "RemovePodSandbox", pod, nil)
}

// CreateContainer may adjust a container.
func (p *Plugin) CreateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.told(ctx, "CreateContainer", pod, c); err != nil || p.Create == nil {
		return nil, nil, err
	}
	adjust, updates := p.Create(pod, c)
	return adjust, updates, nil
}

// PostCreateContainer is told when a container can be started.
func (p *Plugin) PostCreateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.told(ctx, "PostCreateContainer", pod, c)
}

// StartContainer is told before a container is started.
func (p *Plugin) StartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.told(ctx, "StartContainer", pod, c)
}

// PostStartContainer is told when it runs.
func (p *Plugin) PostStartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.told(ctx, "PostStartContainer", pod, c)
}

// UpdateContainer may change an update.
func (p *Plugin) UpdateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	if err := p.told(ctx, "UpdateContainer", pod, c); err != nil || p.Update == nil {
		return nil, err
	}
	return p.Update(c, r), nil
}

// PostUpdateContainer is told when an update was made.
func (p *Plugin) PostUpdateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.told(ctx, "PostUpdateContainer", pod, c)
}

// StopContainer is told when a container has ended.
func (p *Plugin) StopContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	if err := p.told(ctx, "StopContainer", pod, c); err != nil || p.Stopped == nil {
		return nil, err
	}
	return p.Stopped(c), nil
}

// RemoveContainer is told when it is gone.
func (p *Plugin) RemoveContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.told(ctx, "RemoveContainer", pod, c)
}

// ValidateContainerAdjustment may refuse what plugins adjusted. It is no event.
func (p *Plugin) ValidateContainerAdjustment(_ context.Context, req *api.ValidateContainerAdjustmentRequest) error {
	if p.Validator == nil {
		return nil
	}
	return p.Validator(req)
}
