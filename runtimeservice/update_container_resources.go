package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	nriapi "github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// UpdateContainerResources changes the limits of a container that is created or
// runs. Fields that the request leaves at zero stay as they are. The limits in
// force afterwards are in ContainerStatus, also after a restart of the daemon.
// After an error the former ones hold.
func (s *Service) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) error {
	c, err := s.containers.find(req.GetContainerId())
	if err != nil {
		return err
	}
	aboutContainer(ctx, c)
	if req.GetLinux() == nil {
		return invalid("linux", "is absent")
	}
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	err = s.detached(ctx, updateContainerTimeout, func(ctx context.Context) error {
		defer c.op.release()
		return s.updateResources(ctx, c, req.GetLinux())
	})
	if err != nil {
		return fmt.Errorf("update resources of container %s: %w", c.id, err)
	}
	return nil
}

// updateResources is called with c.op held.
func (s *Service) updateResources(ctx context.Context, c *container, change *runtimeapi.LinuxContainerResources) error {
	if err := c.requireUpdatable(); err != nil {
		return err
	}
	wanted, err := s.plugins.askForUpdate(ctx, c, change)
	if err != nil {
		return err
	}
	if err := s.changeLimits(ctx, c, change, wanted); err != nil {
		return err
	}
	s.plugins.containerUpdated(ctx, c)
	return nil
}

// requireUpdatable is the error of what only a container with limits to change can do.
func (c *container) requireUpdatable() error {
	if state := c.state(); state != record.Created && state != record.Running {
		return fmt.Errorf("it is %s: %w", state, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// changeLimits makes the limits that a request names, and those that plugins want in
// place of them, the ones in force.
func (s *Service) changeLimits(ctx context.Context, c *container, change *runtimeapi.LinuxContainerResources, wanted *nriapi.LinuxResources) error {
	if err := c.limits.acquire(ctx); err != nil {
		return err
	}
	defer c.limits.release()
	if err := c.requireUpdatable(); err != nil {
		return err
	}
	state := c.state()
	after := mergeResources(mergeResources(c.resources.Load(), change), criResources(wanted))
	limits, err := spec.LinuxResources("linux", after, s.opts.Host)
	if err != nil {
		return err
	}
	ociSpec, err := s.specs.Get(c.id)
	if err != nil {
		return err
	}
	old := ociSpec.Linux.Resources
	next, err := s.adjuster(ctx, "").AdjustResources(withLimits(old, limits), wanted)
	if err != nil {
		return err
	}
	if state == record.Running {
		if err := s.opts.Processes.Update(ctx, c.id, next); err != nil {
			return c.orEnded(errors.Join(err, s.restoreLimits(ctx, c, old)))
		}
	}
	if err := s.saveResources(c, ociSpec, next, after); err != nil {
		if state == record.Running {
			err = errors.Join(err, s.restoreLimits(ctx, c, old))
		}
		return err
	}
	return nil
}

// restoreLimits is for an update that was made in part. The limits that held
// before are ones that the kernel took once.
func (s *Service) restoreLimits(ctx context.Context, c *container, limits *specs.LinuxResources) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := s.opts.Processes.Update(ctx, c.id, limits); err != nil {
		return fmt.Errorf("restore the former limits: %w", err)
	}
	return nil
}

func (s *Service) saveResources(c *container, ociSpec *specs.Spec, limits *specs.LinuxResources, resources *runtimeapi.LinuxContainerResources) error {
	raw, err := proto.Marshal(resources)
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	old := ociSpec.Linux.Resources
	ociSpec.Linux.Resources = limits
	if err := s.specs.Put(c.id, ociSpec); err != nil {
		return err
	}
	if err := c.update(func(rec *record.Container) { rec.Resources = raw }); err != nil {
		ociSpec.Linux.Resources = old
		return errors.Join(err, s.specs.Put(c.id, ociSpec))
	}
	c.resources.Store(resources)
	c.spec = nil // a start reads the new one
	return nil
}

// mergeResources is what holds after a change: its fields, and those of before
// where it says nothing.
func mergeResources(before, change *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	after := &runtimeapi.LinuxContainerResources{}
	if before != nil {
		after = proto.Clone(before).(*runtimeapi.LinuxContainerResources)
	}
	for _, field := range []struct {
		to   *int64
		from int64
	}{
		{&after.CpuPeriod, change.GetCpuPeriod()},
		{&after.CpuQuota, change.GetCpuQuota()},
		{&after.CpuShares, change.GetCpuShares()},
		{&after.MemoryLimitInBytes, change.GetMemoryLimitInBytes()},
		{&after.MemorySwapLimitInBytes, change.GetMemorySwapLimitInBytes()},
		{&after.OomScoreAdj, change.GetOomScoreAdj()},
	} {
		if field.from != 0 {
			*field.to = field.from
		}
	}
	if change.GetMemoryLimitInBytes() != 0 && change.GetMemorySwapLimitInBytes() == 0 {
		// The limit for memory and swap together goes with that for memory.
		after.MemorySwapLimitInBytes = 0
	}
	if change.GetCpusetCpus() != "" {
		after.CpusetCpus = change.GetCpusetCpus()
	}
	if change.GetCpusetMems() != "" {
		after.CpusetMems = change.GetCpusetMems()
	}
	for _, limit := range change.GetHugepageLimits() {
		after.HugepageLimits = setHugepageLimit(after.HugepageLimits, limit)
	}
	if len(change.GetUnified()) > 0 {
		if after.Unified == nil {
			after.Unified = make(map[string]string)
		}
		maps.Copy(after.Unified, change.GetUnified())
	}
	return after
}

func setHugepageLimit(limits []*runtimeapi.HugepageLimit, limit *runtimeapi.HugepageLimit) []*runtimeapi.HugepageLimit {
	for i := range limits {
		if limits[i].GetPageSize() == limit.GetPageSize() {
			limits[i] = limit
			return limits
		}
	}
	return append(limits, limit)
}

// withLimits is a specification's resources with new limits; devices, and what a
// request cannot change, stay.
func withLimits(resources, limits *specs.LinuxResources) *specs.LinuxResources {
	var next specs.LinuxResources
	if resources != nil {
		next = *resources
	}
	next.CPU, next.Memory = withCPU(next.CPU, limits.CPU), withMemory(next.Memory, limits.Memory)
	next.HugepageLimits, next.Unified = limits.HugepageLimits, limits.Unified
	return &next
}

// withCPU keeps what CRI has no field for, and plugins have.
func withCPU(old, limits *specs.LinuxCPU) *specs.LinuxCPU {
	if old == nil {
		return limits
	}
	next := specs.LinuxCPU{}
	if limits != nil {
		next = *limits
	}
	next.RealtimeRuntime, next.RealtimePeriod = old.RealtimeRuntime, old.RealtimePeriod
	next.Burst, next.Idle = old.Burst, old.Idle
	return &next
}

// withMemory is withCPU for memory.
func withMemory(old, limits *specs.LinuxMemory) *specs.LinuxMemory {
	if old == nil {
		return limits
	}
	next := *old
	next.Limit, next.Swap = nil, nil
	if limits != nil {
		next.Limit, next.Swap = limits.Limit, limits.Swap
	}
	return &next
}
