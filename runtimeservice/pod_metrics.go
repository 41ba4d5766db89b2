package runtimeservice

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/podmetrics"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/stats"
)

// The labels in which a kubelet gives the names of what a sandbox or a
// container is for.
const (
	podNameLabel       = "io.kubernetes.pod.name"
	podNamespaceLabel  = "io.kubernetes.pod.namespace"
	containerNameLabel = "io.kubernetes.container.name"
)

// scrapes lets all who ask for metrics at about the same time have one
// collection.
type scrapes struct {
	mu   sync.Mutex
	last *scrape
}

// scrape is one collection. Its result is there when done is closed, and is
// shared: nobody changes it.
type scrape struct {
	done    chan struct{}
	ended   time.Time
	metrics []*runtimeapi.PodSandboxMetrics
	err     error
}

// fresh tells whether the scrape runs, or is not older than usageMaxAge.
func (s *scrape) fresh() bool {
	select {
	case <-s.done:
		return s.err == nil && time.Since(s.ended) < usageMaxAge
	default:
		return true
	}
}

// MetricDescriptors are those of all metrics that this node has. They stay the
// same as long as the daemon runs, and must not be changed.
func (s *meter) MetricDescriptors() []*runtimeapi.MetricDescriptor {
	return s.metrics().Descriptors()
}

// PodSandboxMetrics returns the metrics of the ready pods, with the time of their
// measurement. Callers within a second get the same ones, which must not be
// changed. A pod or container that cannot be measured is left out and logged.
func (s *meter) PodSandboxMetrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	s.scrapes.mu.Lock()
	last := s.scrapes.last
	if last == nil || !last.fresh() {
		last = &scrape{done: make(chan struct{})}
		s.scrapes.last = last
		// Detached: others wait for it too.
		s.inBackground("collect metrics", func(ctx context.Context) error {
			defer close(last.done)
			last.err = fmt.Errorf("collect metrics: it did not end")
			last.metrics, last.err = s.collectMetrics(ctx)
			last.ended = time.Now()
			return last.err
		})
	}
	s.scrapes.mu.Unlock()
	select {
	case <-last.done:
		return last.metrics, last.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *meter) collectMetrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	all := s.sandboxes.all()
	sortSandboxes(all)
	own := s.ownCgroups()
	filesystem := s.rootFilesystem()
	metrics := make([]*runtimeapi.PodSandboxMetrics, len(all))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, sb := range all {
		group.Go(func() error {
			rec := sb.rec.Load()
			if rec.State != record.Ready {
				return ctx.Err()
			}
			m, err := s.metricsOfPod(ctx, sb, rec, own[rec.CgroupParent], filesystem)
			if err != nil {
				s.log.Warn("measure pod", "sandbox", sb.id, "error", err)
			}
			metrics[i] = m
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	kept := metrics[:0]
	for _, m := range metrics {
		if m != nil {
			kept = append(kept, m)
		}
	}
	return kept, nil
}

// metricsOfPod is nil for a pod that cannot be measured.
func (s *meter) metricsOfPod(ctx context.Context, sb *sandbox, rec *record.Sandbox, own bool, filesystem podmetrics.Filesystem) (*runtimeapi.PodSandboxMetrics, error) {
	item := &runtimeapi.PodSandboxMetrics{PodSandboxId: sb.id}
	containers := sb.all()
	var processes stats.Processes
	var oomKills uint64
	for _, c := range containers {
		subject, err := s.containerSubject(ctx, c, filesystem)
		if err != nil {
			s.log.Warn("measure container", "container", c.id, "error", err)
		}
		if subject == nil {
			continue
		}
		processes.Add(*subject.Processes)
		oomKills += subject.Usage.Details.OOMKills
		item.ContainerMetrics = append(item.ContainerMetrics, &runtimeapi.ContainerMetrics{
			ContainerId: c.id, Metrics: s.metrics().Metrics(subject),
		})
	}
	m, err := s.measurePod(sb, rec, containers, own, stats.Full)
	if err != nil {
		return nil, err
	}
	if own && !s.stats.Features().Unified {
		// In version 1 a cgroup counts those that were killed in itself only.
		details := *m.usage.Details
		details.OOMKills += oomKills
		m.usage.Details = &details
	}
	subject := &podmetrics.Subject{
		Labels:  podLabels(sb),
		Created: time.Unix(0, rec.CreatedAt), Started: time.Unix(0, rec.CreatedAt),
		Usage: m.usage, Processes: &processes,
		Interfaces: s.podInterfaces(sb, rec, containers),
	}
	subject.Labels.ID = s.podCgroup(sb, rec, own)
	item.Metrics = s.metrics().Metrics(subject)
	return item, nil
}

// containerSubject is nil for a container that does not run, or ends at this
// moment.
func (s *meter) containerSubject(ctx context.Context, c *container, filesystem podmetrics.Filesystem) (*podmetrics.Subject, error) {
	m, ok, err := s.measureContainer(c, stats.Full)
	if err != nil || !ok {
		return nil, err
	}
	rec := c.rec.Load()
	cgroup := stats.CgroupPath(rec.CgroupPath)
	processes, err := s.stats.ReadProcesses(cgroup, rec.Pid)
	if err != nil {
		s.log.Debug("look at a container's processes", "container", c.id, "error", err)
	}
	subject := &podmetrics.Subject{
		Labels:  podLabels(c.sandbox),
		Created: time.Unix(0, rec.CreatedAt), Started: time.Unix(0, rec.StartedAt),
		Usage: m.usage, Processes: &processes,
	}
	subject.Labels.ID, subject.Labels.Name, subject.Labels.Image = cgroup, c.id, rec.ImageName
	subject.Labels.Container = nameOf(c.config.GetLabels(), containerNameLabel, c.config.GetMetadata().GetName())
	if bytes, _, err := s.rootfs.RootfsUsage(ctx, c.id); err == nil && filesystem.Device != "" {
		filesystem.Used = bytes
		subject.Filesystem = &filesystem
	}
	return subject, nil
}

func podLabels(sb *sandbox) podmetrics.Labels {
	meta, labels := sb.config.GetMetadata(), sb.config.GetLabels()
	return podmetrics.Labels{
		Pod:       nameOf(labels, podNameLabel, meta.GetName()),
		Namespace: nameOf(labels, podNamespaceLabel, meta.GetNamespace()),
	}
}

// nameOf is the label's value, or other without one.
func nameOf(labels map[string]string, label, other string) string {
	if name, ok := labels[label]; ok {
		return name
	}
	return other
}

// podCgroup is where the pod's own cgroup is. One that shares its parent has
// none, and is told from the others by its ID.
func (s *meter) podCgroup(sb *sandbox, rec *record.Sandbox, own bool) string {
	parent := s.parentPath(rec.CgroupParent)
	if own {
		return parent
	}
	return path.Join(parent, sb.id)
}

// podInterfaces are none for a pod on the node's network, and where they cannot
// be read at this moment.
func (s *meter) podInterfaces(sb *sandbox, rec *record.Sandbox, containers []*container) []stats.Interface {
	pin := rec.Namespaces[string(namespaces.Network)]
	if pin == "" {
		return nil
	}
	all, err := readInterfaces(pin, containers)
	if err != nil {
		s.log.Debug("read the pod's interfaces", "sandbox", sb.id, "error", err)
	}
	return all
}

// rootFilesystem is the file system that the writable layers are on. Its Device
// is empty if it cannot be asked.
func (s *meter) rootFilesystem() podmetrics.Filesystem {
	dir := filepath.Clean(s.root)
	var stat unix.Stat_t
	var fs unix.Statfs_t
	if unix.Stat(dir, &stat) != nil || unix.Statfs(dir, &fs) != nil {
		return podmetrics.Filesystem{}
	}
	return podmetrics.Filesystem{
		Device:     s.stats.DeviceName(uint64(unix.Major(stat.Dev)), uint64(unix.Minor(stat.Dev))),
		Limit:      fs.Blocks * uint64(fs.Bsize),
		Inodes:     fs.Files,
		InodesFree: fs.Ffree,
	}
}
