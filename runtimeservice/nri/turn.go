package nri

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
)

// Turn is a time in which no plugin is synchronised, so that a change of the
// runtime's state and the events of it are one step for each plugin. It is short:
// while it lasts no plugin can join, and while one joins no Turn begins.
//
// A nil Turn is that of a runtime without plugins. Its events, and those of one in
// which no plugin is connected, do nothing; Active tells, so that what they would be
// told need not be put together.
//
// Errors of events are ErrFailedPrecondition, with the plugin's message, or the
// context's.
type Turn struct {
	plugins *Plugins
	block   *adaptation.PluginSyncBlock
}

// Begin waits for a plugin that is being synchronised.
func (p *Plugins) Begin() *Turn {
	if p.adaptation == nil {
		return nil
	}
	return &Turn{plugins: p, block: p.adaptation.BlockPluginSync()}
}

// End ends the turn; twice is once.
func (t *Turn) End() {
	if t != nil {
		t.block.Unblock()
	}
}

// Active tells whether any plugin is connected.
func (t *Turn) Active() bool { return t != nil && t.plugins.connected.Load() > 0 }

// RunPodSandbox says that a pod was made. Nobody knows of it yet.
func (t *Turn) RunPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	if !t.Active() {
		return nil
	}
	return failure(ctx, t.plugins.adaptation.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: pod}))
}

// UpdatePodSandbox says that a pod's resources are about to change.
func (t *Turn) UpdatePodSandbox(ctx context.Context, pod *api.PodSandbox, overhead, resources *api.LinuxResources) error {
	if !t.Active() {
		return nil
	}
	_, err := t.plugins.adaptation.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{
		Pod: pod, OverheadLinuxResources: overhead, LinuxResources: resources,
	})
	return failure(ctx, err)
}

// PostUpdatePodSandbox says that they have changed.
func (t *Turn) PostUpdatePodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	if !t.Active() {
		return nil
	}
	return failure(ctx, t.plugins.adaptation.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: pod}))
}

// StopPodSandbox says that the containers of a pod have ended and that its network
// goes next.
func (t *Turn) StopPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	if !t.Active() {
		return nil
	}
	return failure(ctx, t.plugins.adaptation.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: pod}))
}

// RemovePodSandbox says that a pod is gone.
func (t *Turn) RemovePodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	if !t.Active() {
		return nil
	}
	return failure(ctx, t.plugins.adaptation.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: pod}))
}

// Changes are what plugins want of containers that are there already.
type Changes struct {
	Updates   []*api.ContainerUpdate
	Evictions []*api.ContainerEviction
}

// CreateContainer asks how the specification of a container is to be adjusted, nil
// for not at all. The library changes the message.
func (t *Turn) CreateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, Changes, error) {
	if !t.Active() {
		return nil, Changes{}, nil
	}
	env, devices := c.GetEnv(), c.GetLinux().GetDevices()
	resp, err := t.plugins.adaptation.CreateContainer(ctx, &api.CreateContainerRequest{Pod: pod, Container: c})
	if err != nil {
		return nil, Changes{}, failure(ctx, err)
	}
	markRemoved(resp.GetAdjust(), env, devices, c)
	return resp.GetAdjust(), Changes{resp.GetUpdate(), resp.GetEvict()}, nil
}

// markRemoved marks the variables and devices that plugins have removed. The library
// takes them out of the container's description, and does not say so in its answer.
func markRemoved(adjust *api.ContainerAdjustment, env []string, devices []*api.LinuxDevice, after *api.Container) {
	if adjust == nil {
		return
	}
	kept := make(map[string]bool)
	for _, variable := range after.GetEnv() {
		name, _, _ := strings.Cut(variable, "=")
		kept[name] = true
	}
	for _, variable := range env {
		if name, _, _ := strings.Cut(variable, "="); !kept[name] {
			adjust.RemoveEnv(name)
		}
	}
	clear(kept)
	for _, device := range after.GetLinux().GetDevices() {
		kept[device.GetPath()] = true
	}
	for _, device := range devices {
		if !kept[device.GetPath()] {
			adjust.RemoveDevice(device.GetPath())
		}
	}
}

// PostCreateContainer says that a container can be started.
func (t *Turn) PostCreateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	if !t.Active() {
		return nil
	}
	return failure(ctx, t.plugins.adaptation.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: pod, Container: c}))
}

// StartContainer says that a container is about to be started.
func (t *Turn) StartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	if !t.Active() {
		return nil
	}
	return failure(ctx, t.plugins.adaptation.StartContainer(ctx, &api.StartContainerRequest{Pod: pod, Container: c}))
}

// PostStartContainer says that its process runs.
func (t *Turn) PostStartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	if !t.Active() {
		return nil
	}
	return failure(ctx, t.plugins.adaptation.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: pod, Container: c}))
}

// UpdateContainer asks how an update of a container's limits is to be changed; own
// are the limits to be set in place of those asked for, nil if these stay.
func (t *Turn) UpdateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container, asked *api.LinuxResources) (own *api.LinuxResources, others Changes, err error) {
	if !t.Active() {
		return nil, Changes{}, nil
	}
	resp, err := t.plugins.adaptation.UpdateContainer(ctx, &api.UpdateContainerRequest{Pod: pod, Container: c, LinuxResources: asked})
	if err != nil {
		return nil, Changes{}, failure(ctx, err)
	}
	// The last one is for the container itself.
	others = Changes{resp.GetUpdate(), resp.GetEvict()}
	if n := len(others.Updates); n > 0 {
		own = others.Updates[n-1].GetLinux().GetResources()
		others.Updates = others.Updates[:n-1]
	}
	return own, others, nil
}

// PostUpdateContainer says that a container's limits have changed.
func (t *Turn) PostUpdateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	if !t.Active() {
		return nil
	}
	return failure(ctx, t.plugins.adaptation.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: pod, Container: c}))
}

// StopContainer says that a container's process has ended.
func (t *Turn) StopContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) (Changes, error) {
	if !t.Active() {
		return Changes{}, nil
	}
	resp, err := t.plugins.adaptation.StopContainer(ctx, &api.StopContainerRequest{Pod: pod, Container: c})
	if err != nil {
		return Changes{}, failure(ctx, err)
	}
	return Changes{Updates: resp.GetUpdate()}, nil
}

// RemoveContainer says that a container is gone.
func (t *Turn) RemoveContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	if !t.Active() {
		return nil
	}
	return failure(ctx, t.plugins.adaptation.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: pod, Container: c}))
}

// failure gives the error of a plugin a kind. The transport's own status is not
// passed on: it would be taken for the runtime's.
func failure(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("wait for NRI plugins: %w", ctx.Err())
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("NRI plugin has not answered: %w", err)
	default:
		return fmt.Errorf("NRI plugin refuses: %v: %w", err, errdefs.ErrFailedPrecondition)
	}
}
