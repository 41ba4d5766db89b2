package runtimeservice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cni"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/stats"
)

// PodSandboxStats returns what a pod uses, with its containers. One that is not
// ready uses nothing. ErrNotFound if there is none with that ID.
func (s *meter) PodSandboxStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	sb, err := s.sandboxes.find(id)
	if err != nil {
		return nil, err
	}
	return s.podStats(ctx, sb, s.ownCgroups())
}

// ListPodSandboxStats returns what the ready pods use that pass the filter.
func (s *meter) ListPodSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	own := s.ownCgroups()
	items := []*runtimeapi.PodSandboxStats{}
	all := s.sandboxes.all()
	sortSandboxes(all)
	for _, sb := range all {
		if sb.rec.Load().State != record.Ready ||
			!strings.HasPrefix(sb.id, filter.GetId()) ||
			!selects(filter.GetLabelSelector(), sb.config.GetLabels()) {
			continue
		}
		item, err := s.podStats(ctx, sb, own)
		if err != nil {
			// One pod must not hide the others.
			s.log.Warn("measure pod", "sandbox", sb.id, "error", err)
			continue
		}
		items = append(items, item)
	}
	return items, nil
}

// sortSandboxes puts the oldest first.
func sortSandboxes(all []*sandbox) {
	slices.SortFunc(all, func(a, b *sandbox) int {
		return cmp.Or(cmp.Compare(a.rec.Load().CreatedAt, b.rec.Load().CreatedAt), cmp.Compare(a.id, b.id))
	})
}

// ownCgroups are the cgroup parents that belong to one ready sandbox alone, as a
// kubelet makes them: what is used there is used by that pod. Other clients give
// one parent to many.
func (s *meter) ownCgroups() map[string]bool {
	own := make(map[string]bool)
	for _, sb := range s.sandboxes.all() {
		rec := sb.rec.Load()
		if rec.State != record.Ready || rec.CgroupParent == s.sharedParent {
			continue
		}
		_, another := own[rec.CgroupParent]
		own[rec.CgroupParent] = !another
	}
	return own
}

func (s *meter) podStats(ctx context.Context, sb *sandbox, own map[string]bool) (*runtimeapi.PodSandboxStats, error) {
	item := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id:          sb.id,
			Metadata:    sb.config.GetMetadata(),
			Labels:      sb.config.GetLabels(),
			Annotations: sb.config.GetAnnotations(),
		},
		Linux: &runtimeapi.LinuxPodSandboxStats{},
	}
	rec := sb.rec.Load()
	if rec.State != record.Ready {
		return item, nil
	}
	containers := sb.all()
	for _, c := range containers {
		if c.state() != record.Running {
			continue
		}
		stat, err := s.containerStats(ctx, c)
		if err != nil {
			return nil, err
		}
		item.Linux.Containers = append(item.Linux.Containers, stat)
	}
	m, err := s.measurePod(sb, rec, containers, own[rec.CgroupParent], stats.Basic)
	if err != nil {
		return nil, err
	}
	item.Linux.Cpu, item.Linux.Memory, item.Linux.Io = cpuUsage(m), memoryUsage(m.usage), ioUsage(m.usage)
	item.Linux.Process = &runtimeapi.ProcessUsage{Timestamp: m.usage.Time.UnixNano(), ProcessCount: value(m.usage.Processes)}
	item.Linux.Network = s.podNetwork(sb, rec, containers)
	return item, nil
}

// measurePod reads the pod's own cgroup, or sums up those of its containers.
func (s *meter) measurePod(sb *sandbox, rec *record.Sandbox, containers []*container, own bool, detail stats.Detail) (measurement, error) {
	m, err := s.usage.get(sb.id, time.Unix(0, rec.CreatedAt), detail, func() (stats.Usage, error) {
		if own {
			usage, err := s.stats.Read(s.parentPath(rec.CgroupParent), detail)
			if !errors.Is(err, fs.ErrNotExist) {
				return usage, err
			}
		}
		return s.sumContainers(containers, detail)
	})
	if err != nil {
		return measurement{}, fmt.Errorf("measure sandbox %s: %w", sb.id, err)
	}
	return m, nil
}

// parentPath is the path of a pod's cgroup below the mount points. It is given
// as one, but systemd nests slices as their names say.
func (s *meter) parentPath(parent string) string {
	if s.systemdCgroup {
		return stats.SlicePath(path.Base(parent))
	}
	return path.Join("/", parent)
}

func (s *meter) sumContainers(containers []*container, detail stats.Detail) (stats.Usage, error) {
	sum := stats.Usage{Time: time.Now()}
	if detail == stats.Full {
		sum.Details = &stats.Details{}
	}
	for _, c := range containers {
		m, ok, err := s.measureContainer(c, detail)
		if err != nil {
			return stats.Usage{}, err
		}
		if ok {
			sum.Add(m.usage)
		}
	}
	if sum.MemoryLimit == 0 {
		sum.MemoryLimit = stats.NoLimit // no container runs
	}
	return sum, nil
}

// podNetwork is absent for a pod on the node's network, and where it cannot be
// read at this moment.
func (s *meter) podNetwork(sb *sandbox, rec *record.Sandbox, containers []*container) *runtimeapi.NetworkUsage {
	all := s.podInterfaces(sb, rec, containers)
	if all == nil {
		return nil
	}
	usage := &runtimeapi.NetworkUsage{Timestamp: time.Now().UnixNano()}
	for _, i := range all {
		item := &runtimeapi.NetworkInterfaceUsage{
			Name:     i.Name,
			RxBytes:  value(i.RxBytes),
			RxErrors: value(i.RxErrors),
			TxBytes:  value(i.TxBytes),
			TxErrors: value(i.TxErrors),
		}
		if i.Name == cni.InterfaceName {
			usage.DefaultInterface = item
		} else {
			usage.Interfaces = append(usage.Interfaces, item)
		}
	}
	return usage
}

// readInterfaces asks through a process that is in the network namespace, which
// takes one read; without one a thread has to enter it.
func readInterfaces(pin string, containers []*container) (all []stats.Interface, err error) {
	for _, c := range containers {
		rec := c.rec.Load()
		if rec.State != record.Running || rec.Pid == 0 {
			continue
		}
		if all, err = stats.ReadInterfaces(fmt.Sprintf("/proc/%d/net/dev", rec.Pid)); err == nil {
			return all, nil
		}
	}
	err = namespaces.EnterNetwork(pin, func() error {
		all, err = stats.ReadInterfaces("/proc/thread-self/net/dev")
		return err
	})
	return all, err
}
