package runtimeservice

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	nriapi "github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/nri"
)

var _ nri.Runtime = (*pluginEvents)(nil)

// PluginRuntime is what NRI plugins may see and change by themselves.
func (s *Service) PluginRuntime() nri.Runtime { return s.plugins }

// State lists what there is, from memory and from the specifications on disk. It waits
// for no pod and no container. A container that has just ended is among them as long as
// its end is still to be told.
func (p *pluginEvents) State(context.Context) ([]*nriapi.PodSandbox, []*nriapi.Container, error) {
	var (
		pods       []*nriapi.PodSandbox
		containers []*nriapi.Container
	)
	for _, sb := range p.sandboxes.all() {
		pods = append(pods, p.podMessage(sb))
		for _, c := range sb.all() {
			if !c.toldStopped.Load() {
				containers = append(containers, p.describe(c))
			}
		}
	}
	return pods, containers, nil
}

// Update changes the limits of a container that is created or runs. It waits for
// neither the container's calls nor other plugins, only for a start or another change
// of its limits that is being made.
func (p *pluginEvents) Update(ctx context.Context, update *nriapi.ContainerUpdate) error {
	c, ok := p.containers.get(update.GetContainerId())
	if !ok {
		return fmt.Errorf("container %q: %w", update.GetContainerId(), errdefs.ErrNotFound)
	}
	wanted := update.GetLinux().GetResources()
	if class := wanted.GetRdtClass(); class != nil {
		return fmt.Errorf("RDT class %q: a container keeps the one it was made with: %w", class.GetValue(), errdefs.ErrFailedPrecondition)
	}
	if err := p.service.changeLimits(ctx, c, &runtimeapi.LinuxContainerResources{}, wanted); err != nil {
		return fmt.Errorf("update resources of container %s for an NRI plugin: %w", c.id, err)
	}
	return nil
}

// updateAll makes the updates that plugins gave in answer to an event of another
// container. That event has happened: an update that fails is logged.
func (p *pluginEvents) updateAll(ctx context.Context, updates []*nriapi.ContainerUpdate) {
	for _, update := range updates {
		ctx, cancel := context.WithTimeout(ctx, updateContainerTimeout)
		if err := p.Update(ctx, update); err != nil {
			p.log.Warn("update a container for an NRI plugin", "container", update.GetContainerId(), "error", err)
		}
		cancel()
	}
}

// evict kills containers to make room. No turn is under way: their ends are
// events.
func (p *pluginEvents) evict(ctx context.Context, evictions []*nriapi.ContainerEviction) {
	for _, eviction := range evictions {
		id := eviction.GetContainerId()
		p.log.Info("evict container for an NRI plugin", "container", id, "reason", eviction.GetReason())
		if err := p.service.StopContainer(ctx, id, 0); err != nil {
			p.log.Warn("evict container for an NRI plugin", "container", id, "error", err)
		}
	}
}

// adjuster applies adjustments with what this node has, to a container whose files have that
// SELinux label.
func (s *Service) adjuster(ctx context.Context, fileLabel string) nri.Adjuster {
	adjuster := nri.Adjuster{
		InjectCDI: func(ociSpec *specs.Spec, devices []string) error {
			return s.injectNamedDevices(ctx, ociSpec, devices)
		},
		RequirePropagation: func(source string, bothWays bool) error {
			return s.opts.Host.CheckPropagation(ctx, source, bothWays)
		},
		Relabel: func(source string) error { return s.relabel(ctx, source, fileLabel) },
	}
	if s.opts.Classes != nil {
		adjuster.BlockIO, adjuster.RDT = s.opts.Classes.BlockIO, s.opts.Classes.RDT
	}
	return adjuster
}

// criResources are the limits that CRI has fields for too.
func criResources(r *nriapi.LinuxResources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{
		CpuPeriod:              int64(r.GetCpu().GetPeriod().GetValue()),
		CpuQuota:               r.GetCpu().GetQuota().GetValue(),
		CpuShares:              int64(r.GetCpu().GetShares().GetValue()),
		MemoryLimitInBytes:     r.GetMemory().GetLimit().GetValue(),
		MemorySwapLimitInBytes: r.GetMemory().GetSwap().GetValue(),
		CpusetCpus:             r.GetCpu().GetCpus(),
		CpusetMems:             r.GetCpu().GetMems(),
		Unified:                r.GetUnified(),
	}
	for _, limit := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: limit.GetPageSize(), Limit: limit.GetLimit()})
	}
	return out
}
