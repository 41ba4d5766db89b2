package runtimeservice

import (
	"context"
	"fmt"

	nriapi "github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/nri"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/spec"
	"github.com/berth-cri/berth/runtimeservice/undo"
)

// Plugins are those of the Node Resource Interface: *nri.Plugins, or nil for none.
type Plugins interface {
	// Begin begins a turn, in which no plugin joins.
	Begin() *nri.Turn
}

// What plugins are told, and what of it they decide:
//
//	RunPodSandbox, UpdatePodSandbox, CreateContainer, StartContainer, UpdateContainer:
//	an error of a plugin is the call's.
//	All that follows what has happened, or takes away: an error is logged. No plugin
//	keeps a pod from going.
//
// StopContainer is told once for each container, when its process has ended by
// whatever reason, or when it is removed without having run.

func (s *Service) pluginTurn() *nri.Turn {
	if s.opts.Plugins == nil {
		return nil
	}
	return s.opts.Plugins.Begin()
}

// ignored logs the error of an event that has happened anyway.
func (s *Service) ignored(event, id string, err error) {
	if err != nil {
		s.log.Warn("tell NRI plugins", "event", event, "id", id, "error", err)
	}
}

func (s *Service) tellPodRuns(ctx context.Context, turn *nri.Turn, sb *sandbox, u *undo.Stack) error {
	if !turn.Active() {
		return nil
	}
	u.Add("tell NRI plugins that the pod is gone", undoTimeout, func(ctx context.Context) error {
		s.tellPodStopped(ctx, sb)
		turn := s.pluginTurn()
		defer turn.End()
		s.tellPodRemoved(ctx, turn, sb)
		return nil
	})
	return turn.RunPodSandbox(ctx, s.podMessage(sb))
}

func (s *Service) tellPodUpdates(ctx context.Context, turn *nri.Turn, sb *sandbox, req *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	if !turn.Active() {
		return nil
	}
	return turn.UpdatePodSandbox(ctx, s.podMessage(sb), nriResources(req.GetOverhead()), nriResources(req.GetResources()))
}

func (s *Service) tellPodUpdated(ctx context.Context, turn *nri.Turn, sb *sandbox) {
	if turn.Active() {
		s.ignored("PostUpdatePodSandbox", sb.id, turn.PostUpdatePodSandbox(ctx, s.podMessage(sb)))
	}
}

// tellPodStopped does it once. It is called by one who has the whole sandbox.
func (s *Service) tellPodStopped(ctx context.Context, sb *sandbox) {
	if sb.toldStopped {
		return
	}
	sb.toldStopped = true
	turn := s.pluginTurn()
	defer turn.End()
	if turn.Active() {
		s.ignored("StopPodSandbox", sb.id, turn.StopPodSandbox(ctx, s.podMessage(sb)))
	}
}

func (s *Service) tellPodRemoved(ctx context.Context, turn *nri.Turn, sb *sandbox) {
	if turn.Active() {
		s.ignored("RemovePodSandbox", sb.id, turn.RemovePodSandbox(ctx, s.podMessage(sb)))
	}
}

// creation is a container on its way into its sandbox.
type creation struct {
	sandbox  *sandbox
	rec      *record.Container
	config   *runtimeapi.ContainerConfig
	spec     *specs.Spec
	resolved *spec.Resolved
}

// adjustByPlugins has plugins adjust the specification of a new container, and notes
// in its record what they changed of what a status shows. It also returns what
// containers are to make room.
func (s *Service) adjustByPlugins(ctx context.Context, turn *nri.Turn, c creation, u *undo.Stack) (*specs.Spec, []*nriapi.ContainerEviction, error) {
	if !turn.Active() {
		return c.spec, nil, nil
	}
	message := s.containerMessage(c.rec, c.config, c.spec)
	u.Add("tell NRI plugins that the container is gone", undoTimeout, func(ctx context.Context) error {
		s.tellCreationUndone(ctx, c)
		return nil
	})
	adjust, changes, err := turn.CreateContainer(ctx, s.podMessage(c.sandbox), message)
	if err != nil {
		return nil, nil, err
	}
	s.updateForPlugins(ctx, changes.Updates)
	adjusted, err := s.adjuster(ctx).Adjust(c.spec, adjust)
	if err != nil {
		return nil, nil, err
	}
	if err := s.clampAdjusted(adjusted, adjust, c.resolved); err != nil {
		return nil, nil, err
	}
	return adjusted, changes.Evictions, s.recordAdjusted(c, adjusted, adjust)
}

func (s *Service) tellCreationUndone(ctx context.Context, c creation) {
	turn := s.pluginTurn()
	defer turn.End()
	if !turn.Active() {
		return
	}
	pod, message := s.podMessage(c.sandbox), s.containerMessage(c.rec, c.config, c.spec)
	message.State = nriapi.ContainerState_CONTAINER_STOPPED
	changes, err := turn.StopContainer(ctx, pod, message)
	s.ignored("StopContainer", c.rec.ID, err)
	s.updateForPlugins(ctx, changes.Updates)
	s.ignored("RemoveContainer", c.rec.ID, turn.RemoveContainer(ctx, pod, message))
}

// recordAdjusted brings the record in line with a specification that was adjusted.
func (s *Service) recordAdjusted(c creation, adjusted *specs.Spec, adjust *nriapi.ContainerAdjustment) error {
	if cgroup := adjust.GetLinux().GetCgroupsPath(); cgroup != "" {
		if err := spec.CheckCgroupsPath(s.opts.SystemdCgroup, cgroup); err != nil {
			return fmt.Errorf("adjust specification as NRI plugins want: %w", err)
		}
		c.rec.CgroupPath = cgroup
	}
	wanted := criResources(adjust.GetLinux().GetResources())
	if adjust.GetLinux().GetOomScoreAdj() != nil {
		wanted.OomScoreAdj = int64(*adjusted.Process.OOMScoreAdj)
	}
	if proto.Size(wanted) == 0 {
		return nil
	}
	raw, err := proto.Marshal(mergeResources(c.config.GetLinux().GetResources(), wanted))
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	c.rec.Resources = raw
	return nil
}

// clampAdjusted lowers what the daemon itself may not give, as for a request.
func (s *Service) clampAdjusted(adjusted *specs.Spec, adjust *nriapi.ContainerAdjustment, resolved *spec.Resolved) error {
	note := func(text string) { resolved.Notes = append(resolved.Notes, text) }
	if score := adjust.GetLinux().GetOomScoreAdj(); score != nil {
		asked := &runtimeapi.LinuxContainerResources{OomScoreAdj: score.GetValue()}
		given, err := spec.OOMScoreAdj("NRI adjustment", asked, s.opts.Host, note)
		if err != nil {
			return err
		}
		adjusted.Process.OOMScoreAdj = &given
	}
	if len(adjust.GetRlimits()) > 0 {
		return spec.ClampRlimits("NRI adjustment", adjusted.Process.Rlimits, s.opts.Host, note)
	}
	return nil
}

func (s *Service) tellContainerCreated(ctx context.Context, turn *nri.Turn, c *container, ociSpec *specs.Spec) {
	if !turn.Active() {
		return
	}
	pod, message := s.podMessage(c.sandbox), s.containerMessage(c.rec.Load(), wholeConfig(c), ociSpec)
	s.ignored("PostCreateContainer", c.id, turn.PostCreateContainer(ctx, pod, message))
}

// tellContainerStarts and tellContainerStarted are called with c.plugins held.
func (s *Service) tellContainerStarts(ctx context.Context, c *container) error {
	turn := s.pluginTurn()
	defer turn.End()
	if !turn.Active() {
		return nil
	}
	return turn.StartContainer(ctx, s.podMessage(c.sandbox), s.describe(c))
}

func (s *Service) tellContainerStarted(ctx context.Context, c *container) {
	turn := s.pluginTurn()
	defer turn.End()
	if turn.Active() {
		s.ignored("PostStartContainer", c.id, turn.PostStartContainer(ctx, s.podMessage(c.sandbox), s.describe(c)))
	}
}

// askForUpdate returns the limits that plugins want in place of those of a request;
// nil for none.
func (s *Service) askForUpdate(ctx context.Context, c *container, change *runtimeapi.LinuxContainerResources) (*nriapi.LinuxResources, error) {
	turn := s.pluginTurn()
	defer turn.End()
	if !turn.Active() {
		return nil, nil
	}
	limits, err := spec.LinuxResources("linux", change, s.opts.Host)
	if err != nil {
		return nil, err
	}
	asked := nriapi.FromOCILinuxResources(limits, nil)
	wanted, others, err := turn.UpdateContainer(ctx, s.podMessage(c.sandbox), s.describe(c), asked)
	if err != nil {
		return nil, err
	}
	s.updateForPlugins(ctx, others.Updates)
	turn.End()
	s.evictForPlugins(ctx, others.Evictions)
	return wanted, nil
}

func (s *Service) tellContainerUpdated(ctx context.Context, c *container) {
	turn := s.pluginTurn()
	defer turn.End()
	if turn.Active() {
		s.ignored("PostUpdateContainer", c.id, turn.PostUpdateContainer(ctx, s.podMessage(c.sandbox), s.describe(c)))
	}
}

// tellContainerEnded tells of the end of a container that has ended, once.
func (s *Service) tellContainerEnded(ctx context.Context, c *container) {
	if s.opts.Plugins == nil || c.state() == record.Created || c.state() == record.Running {
		return
	}
	if err := c.plugins.acquire(ctx); err != nil {
		s.ignored("StopContainer", c.id, err)
		return
	}
	defer c.plugins.release()
	s.tellStopped(ctx, c)
}

// tellStopped is called with c.plugins held.
func (s *Service) tellStopped(ctx context.Context, c *container) {
	if c.toldStopped.Load() {
		return
	}
	turn := s.pluginTurn()
	defer turn.End()
	c.toldStopped.Store(true)
	if !turn.Active() {
		return
	}
	message := s.describe(c)
	message.State = nriapi.ContainerState_CONTAINER_STOPPED // also of one that never ran
	changes, err := turn.StopContainer(ctx, s.podMessage(c.sandbox), message)
	s.ignored("StopContainer", c.id, err)
	s.updateForPlugins(ctx, changes.Updates)
}

// tellContainerRemoved is called with c.plugins held.
func (s *Service) tellContainerRemoved(ctx context.Context, turn *nri.Turn, c *container) {
	if c.toldRemoved {
		return
	}
	c.toldRemoved = true
	if turn.Active() {
		s.ignored("RemoveContainer", c.id, turn.RemoveContainer(ctx, s.podMessage(c.sandbox), s.describe(c)))
	}
}
