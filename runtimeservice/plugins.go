package runtimeservice

import (
	"context"
	"fmt"
	"log/slog"
	"time"

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

// pluginEvents tells NRI plugins what happens to pods and containers, and makes the
// changes that they want in answer.
//
// What plugins are told, and what of it they decide:
//
//	RunPodSandbox, UpdatePodSandbox, CreateContainer, StartContainer, UpdateContainer:
//	an error of a plugin is the call's.
//	All that follows what has happened, or takes away: an error is logged. No plugin
//	keeps a pod from going.
//
// StopContainer is told once for each container, when its process has ended by
// whatever reason, or when it is removed without having run.
type pluginEvents struct {
	// source is nil where there are no plugins.
	source     Plugins
	sandboxes  *table[sandboxKey, *sandbox]
	containers *table[containerKey, *container]
	specs      *record.Store[specs.Spec]
	host       *spec.Host
	// systemdCgroup says that systemd makes the cgroups.
	systemdCgroup bool
	service       adjustable
	log           *slog.Logger
}

// adjustable is what plugins change of a Service's containers.
type adjustable interface {
	// adjuster applies adjustments with what this node has, to a container whose files have
	// that SELinux label.
	adjuster(ctx context.Context, fileLabel string) nri.Adjuster
	changeLimits(ctx context.Context, c *container, change *runtimeapi.LinuxContainerResources, wanted *nriapi.LinuxResources) error
	StopContainer(ctx context.Context, id string, timeout time.Duration) error
}

func newPluginEvents(s *Service) *pluginEvents {
	return &pluginEvents{
		source: s.opts.Plugins, sandboxes: s.sandboxes, containers: s.containers, specs: s.specs,
		host: s.opts.Host, systemdCgroup: s.opts.SystemdCgroup, service: s, log: s.log,
	}
}

func (p *pluginEvents) begin() *nri.Turn {
	if p.source == nil {
		return nil
	}
	return p.source.Begin()
}

// ignored logs the error of an event that has happened anyway.
func (p *pluginEvents) ignored(event, id string, err error) {
	if err != nil {
		p.log.Warn("tell NRI plugins", "event", event, "id", id, "error", err)
	}
}

func (p *pluginEvents) podRuns(ctx context.Context, turn *nri.Turn, sb *sandbox, u *undo.Stack) error {
	if !turn.Active() {
		return nil
	}
	u.Add("tell NRI plugins that the pod is gone", undoTimeout, func(ctx context.Context) error {
		p.podStopped(ctx, sb)
		turn := p.begin()
		defer turn.End()
		p.podRemoved(ctx, turn, sb)
		return nil
	})
	return turn.RunPodSandbox(ctx, p.podMessage(sb))
}

func (p *pluginEvents) podUpdates(ctx context.Context, turn *nri.Turn, sb *sandbox, req *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	if !turn.Active() {
		return nil
	}
	return turn.UpdatePodSandbox(ctx, p.podMessage(sb), nriResources(req.GetOverhead()), nriResources(req.GetResources()))
}

func (p *pluginEvents) podUpdated(ctx context.Context, turn *nri.Turn, sb *sandbox) {
	if turn.Active() {
		p.ignored("PostUpdatePodSandbox", sb.id, turn.PostUpdatePodSandbox(ctx, p.podMessage(sb)))
	}
}

// podStopped does it once. It is called by one who has the whole sandbox.
func (p *pluginEvents) podStopped(ctx context.Context, sb *sandbox) {
	if sb.toldStopped {
		return
	}
	sb.toldStopped = true
	turn := p.begin()
	defer turn.End()
	if turn.Active() {
		p.ignored("StopPodSandbox", sb.id, turn.StopPodSandbox(ctx, p.podMessage(sb)))
	}
}

func (p *pluginEvents) podRemoved(ctx context.Context, turn *nri.Turn, sb *sandbox) {
	if turn.Active() {
		p.ignored("RemovePodSandbox", sb.id, turn.RemovePodSandbox(ctx, p.podMessage(sb)))
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

// adjust has plugins adjust the specification of a new container, and notes
// in its record what they changed of what a status shows. It also returns what
// containers are to make room.
func (p *pluginEvents) adjust(ctx context.Context, turn *nri.Turn, c creation, u *undo.Stack) (*specs.Spec, []*nriapi.ContainerEviction, error) {
	if !turn.Active() {
		return c.spec, nil, nil
	}
	message := containerMessage(c.rec, c.config, c.spec)
	u.Add("tell NRI plugins that the container is gone", undoTimeout, func(ctx context.Context) error {
		p.creationUndone(ctx, c)
		return nil
	})
	adjust, changes, err := turn.CreateContainer(ctx, p.podMessage(c.sandbox), message)
	if err != nil {
		return nil, nil, err
	}
	p.updateAll(ctx, changes.Updates)
	adjusted, err := p.service.adjuster(ctx, c.rec.FileLabel).Adjust(c.spec, adjust)
	if err != nil {
		return nil, nil, err
	}
	if err := p.clampAdjusted(adjusted, adjust, c.resolved); err != nil {
		return nil, nil, err
	}
	return adjusted, changes.Evictions, p.recordAdjusted(c, adjusted, adjust)
}

func (p *pluginEvents) creationUndone(ctx context.Context, c creation) {
	turn := p.begin()
	defer turn.End()
	if !turn.Active() {
		return
	}
	pod, message := p.podMessage(c.sandbox), containerMessage(c.rec, c.config, c.spec)
	message.State = nriapi.ContainerState_CONTAINER_STOPPED
	changes, err := turn.StopContainer(ctx, pod, message)
	p.ignored("StopContainer", c.rec.ID, err)
	p.updateAll(ctx, changes.Updates)
	p.ignored("RemoveContainer", c.rec.ID, turn.RemoveContainer(ctx, pod, message))
}

// recordAdjusted brings the record in line with a specification that was adjusted.
func (p *pluginEvents) recordAdjusted(c creation, adjusted *specs.Spec, adjust *nriapi.ContainerAdjustment) error {
	if cgroup := adjust.GetLinux().GetCgroupsPath(); cgroup != "" {
		if err := spec.CheckCgroupsPath(p.systemdCgroup, cgroup); err != nil {
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
func (p *pluginEvents) clampAdjusted(adjusted *specs.Spec, adjust *nriapi.ContainerAdjustment, resolved *spec.Resolved) error {
	note := func(text string) { resolved.Notes = append(resolved.Notes, text) }
	if score := adjust.GetLinux().GetOomScoreAdj(); score != nil {
		asked := &runtimeapi.LinuxContainerResources{OomScoreAdj: score.GetValue()}
		given, err := spec.OOMScoreAdj("NRI adjustment", asked, p.host, note)
		if err != nil {
			return err
		}
		adjusted.Process.OOMScoreAdj = &given
	}
	if len(adjust.GetRlimits()) > 0 {
		return spec.ClampRlimits("NRI adjustment", adjusted.Process.Rlimits, p.host, note)
	}
	return nil
}

func (p *pluginEvents) containerCreated(ctx context.Context, turn *nri.Turn, c *container, ociSpec *specs.Spec) {
	if !turn.Active() {
		return
	}
	pod, message := p.podMessage(c.sandbox), containerMessage(c.rec.Load(), wholeConfig(c), ociSpec)
	p.ignored("PostCreateContainer", c.id, turn.PostCreateContainer(ctx, pod, message))
}

// containerStarts and containerStarted are called with c.plugins held.
func (p *pluginEvents) containerStarts(ctx context.Context, c *container) error {
	turn := p.begin()
	defer turn.End()
	if !turn.Active() {
		return nil
	}
	return turn.StartContainer(ctx, p.podMessage(c.sandbox), p.describe(c))
}

func (p *pluginEvents) containerStarted(ctx context.Context, c *container) {
	turn := p.begin()
	defer turn.End()
	if turn.Active() {
		p.ignored("PostStartContainer", c.id, turn.PostStartContainer(ctx, p.podMessage(c.sandbox), p.describe(c)))
	}
}

// askForUpdate returns the limits that plugins want in place of those of a request;
// nil for none.
func (p *pluginEvents) askForUpdate(ctx context.Context, c *container, change *runtimeapi.LinuxContainerResources) (*nriapi.LinuxResources, error) {
	turn := p.begin()
	defer turn.End()
	if !turn.Active() {
		return nil, nil
	}
	limits, err := spec.LinuxResources("linux", change, p.host)
	if err != nil {
		return nil, err
	}
	asked := nriapi.FromOCILinuxResources(limits, nil)
	wanted, others, err := turn.UpdateContainer(ctx, p.podMessage(c.sandbox), p.describe(c), asked)
	if err != nil {
		return nil, err
	}
	p.updateAll(ctx, others.Updates)
	turn.End()
	p.evict(ctx, others.Evictions)
	return wanted, nil
}

func (p *pluginEvents) containerUpdated(ctx context.Context, c *container) {
	turn := p.begin()
	defer turn.End()
	if turn.Active() {
		p.ignored("PostUpdateContainer", c.id, turn.PostUpdateContainer(ctx, p.podMessage(c.sandbox), p.describe(c)))
	}
}

// containerEnded tells of the end of a container that has ended, once.
func (p *pluginEvents) containerEnded(ctx context.Context, c *container) {
	if p.source == nil || c.state() == record.Created || c.state() == record.Running {
		return
	}
	if err := c.plugins.acquire(ctx); err != nil {
		p.ignored("StopContainer", c.id, err)
		return
	}
	defer c.plugins.release()
	p.containerStopped(ctx, c)
}

// containerStopped is called with c.plugins held.
func (p *pluginEvents) containerStopped(ctx context.Context, c *container) {
	if c.toldStopped.Load() {
		return
	}
	turn := p.begin()
	defer turn.End()
	c.toldStopped.Store(true)
	if !turn.Active() {
		return
	}
	message := p.describe(c)
	message.State = nriapi.ContainerState_CONTAINER_STOPPED // also of one that never ran
	changes, err := turn.StopContainer(ctx, p.podMessage(c.sandbox), message)
	p.ignored("StopContainer", c.id, err)
	p.updateAll(ctx, changes.Updates)
}

// containerRemoved is called with c.plugins held.
func (p *pluginEvents) containerRemoved(ctx context.Context, turn *nri.Turn, c *container) {
	if c.toldRemoved {
		return
	}
	c.toldRemoved = true
	if turn.Active() {
		p.ignored("RemoveContainer", c.id, turn.RemoveContainer(ctx, p.podMessage(c.sandbox), p.describe(c)))
	}
}
