package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/stats"
)

// usageMaxAge is how old a measurement may be that answers a call. A kubelet asks
// for containers and for pods one after the other, and a metrics collector may
// ask at the same time: they share one reading.
const usageMaxAge = time.Second

// usageCache keeps the last measurement of each cgroup, by the ID of its
// container or sandbox.
type usageCache struct {
	mu      sync.Mutex
	entries map[string]*cachedUsage
}

// cachedUsage is locked while its cgroup is read, so that all who ask for it at
// the same time share the reading.
type cachedUsage struct {
	mu sync.Mutex
	measurement
}

// measurement is what was read of one cgroup, and the rate since the one before.
type measurement struct {
	usage     stats.Usage
	rate      stats.Rate
	nanoCores uint64
	hasRate   bool
}

// get returns a measurement that is not too old and has what detail asks for, a
// new one if need be.
func (u *usageCache) get(id string, began time.Time, detail stats.Detail, read func() (stats.Usage, error)) (measurement, error) {
	c := u.entry(id, began)
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.usage.Time) < usageMaxAge && (detail == stats.Basic || c.usage.Details != nil) {
		return c.measurement, nil
	}
	usage, err := read()
	if err != nil {
		return measurement{}, err
	}
	c.usage = usage
	c.nanoCores, c.hasRate = c.rate.Update(usage.Time, usage.CPU)
	return c.measurement, nil
}

func (u *usageCache) entry(id string, began time.Time) *cachedUsage {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.entries[id]
	if c == nil {
		c = &cachedUsage{}
		c.rate.StartAt(began)
		if u.entries == nil {
			u.entries = make(map[string]*cachedUsage)
		}
		u.entries[id] = c
	}
	return c
}

func (u *usageCache) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.entries, id)
}

// ContainerStats returns what a container uses. Of one that does not run that is
// its writable layer only. ErrNotFound if there is none with that ID.
func (s *meter) ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	c, err := s.containers.find(id)
	if err != nil {
		return nil, err
	}
	return s.containerStats(ctx, c)
}

// ListContainerStats returns what the running containers use that pass the
// filter.
func (s *meter) ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	all := s.containers.all()
	sortContainers(all)
	items := []*runtimeapi.ContainerStats{}
	for _, c := range all {
		if c.state() != record.Running ||
			!strings.HasPrefix(c.id, filter.GetId()) ||
			!strings.HasPrefix(c.sandbox.id, filter.GetPodSandboxId()) ||
			!selects(filter.GetLabelSelector(), c.config.GetLabels()) {
			continue
		}
		item, err := s.containerStats(ctx, c)
		if err != nil {
			// One container must not hide the others.
			s.log.Warn("measure container", "container", c.id, "error", err)
			continue
		}
		items = append(items, item)
	}
	return items, nil
}

func (s *meter) containerStats(ctx context.Context, c *container) (*runtimeapi.ContainerStats, error) {
	item := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id:          c.id,
			Metadata:    c.config.GetMetadata(),
			Labels:      c.config.GetLabels(),
			Annotations: c.config.GetAnnotations(),
		},
		WritableLayer: s.writableLayer(ctx, c),
	}
	m, ok, err := s.measureContainer(c, stats.Basic)
	if err != nil || !ok {
		return item, err
	}
	item.Cpu, item.Memory, item.Swap, item.Io = cpuUsage(m), memoryUsage(m.usage), swapUsage(m.usage), ioUsage(m.usage)
	return item, nil
}

// measureContainer reads the cgroup of a running container; ok is false for one
// that does not run, or ends at this moment.
func (s *meter) measureContainer(c *container, detail stats.Detail) (m measurement, ok bool, err error) {
	rec := c.rec.Load()
	if rec.State != record.Running {
		return measurement{}, false, nil
	}
	m, err = s.usage.get(c.id, time.Unix(0, rec.StartedAt), detail, func() (stats.Usage, error) {
		return s.stats.Read(stats.CgroupPath(rec.CgroupPath), detail)
	})
	if errors.Is(err, fs.ErrNotExist) {
		s.usage.forget(c.id)
		return measurement{}, false, nil
	}
	if err != nil {
		return measurement{}, false, fmt.Errorf("measure container %s: %w", c.id, err)
	}
	return m, true, nil
}

// writableLayer is absent where it was not measured yet.
func (s *meter) writableLayer(ctx context.Context, c *container) *runtimeapi.FilesystemUsage {
	bytes, inodes, err := s.rootfs.RootfsUsage(ctx, c.id)
	if err != nil {
		s.log.Debug("writable layer's usage", "container", c.id, "error", err)
		return nil
	}
	return &runtimeapi.FilesystemUsage{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: path.Clean(s.root)},
		UsedBytes:  value(bytes),
		InodesUsed: value(inodes),
	}
}

func cpuUsage(m measurement) *runtimeapi.CpuUsage {
	usage := &runtimeapi.CpuUsage{
		Timestamp:            m.usage.Time.UnixNano(),
		UsageCoreNanoSeconds: value(uint64(m.usage.CPU.Nanoseconds())),
		Psi:                  psiStats(m.usage.CPUPressure),
	}
	if m.hasRate {
		usage.UsageNanoCores = value(m.nanoCores)
	}
	return usage
}

func memoryUsage(u stats.Usage) *runtimeapi.MemoryUsage {
	usage := &runtimeapi.MemoryUsage{
		Timestamp:       u.Time.UnixNano(),
		WorkingSetBytes: value(u.WorkingSet),
		UsageBytes:      value(u.Memory),
		RssBytes:        value(u.RSS),
		PageFaults:      value(u.PageFaults),
		MajorPageFaults: value(u.MajorPageFaults),
		Psi:             psiStats(u.MemoryPressure),
	}
	if u.MemoryLimit != stats.NoLimit {
		usage.AvailableBytes = value(u.MemoryLimit - min(u.WorkingSet, u.MemoryLimit))
	}
	return usage
}

func swapUsage(u stats.Usage) *runtimeapi.SwapUsage {
	if !u.HasSwap {
		return nil
	}
	usage := &runtimeapi.SwapUsage{Timestamp: u.Time.UnixNano(), SwapUsageBytes: value(u.Swap)}
	if u.SwapLimit != stats.NoLimit {
		usage.SwapAvailableBytes = value(u.SwapLimit - min(u.Swap, u.SwapLimit))
	}
	return usage
}

// ioUsage is pressure and nothing else; absent where the kernel does not tell it.
func ioUsage(u stats.Usage) *runtimeapi.IoUsage {
	if u.IOPressure == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: u.Time.UnixNano(), Psi: psiStats(u.IOPressure)}
}

func psiStats(p *stats.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	return &runtimeapi.PsiStats{Full: psiData(p.Full), Some: psiData(p.Some)}
}

func psiData(s stats.Stall) *runtimeapi.PsiData {
	return &runtimeapi.PsiData{Total: uint64(s.Total.Nanoseconds()), Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
}

func value(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }
