package runtimeservice

import (
	"cmp"
	"context"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// The stages of a pod's start as its start record and the metrics name them. The
// network, the mounts and so on are those of operations too.
const (
	stageQueue      = "queue"
	stageNamespaces = "namespaces"
	stageFiles      = "files"
	stageNetwork    = "network"
	stageInit       = "init"
	stagePlugins    = "plugins"
	stagePull       = "pull"
	stageImage      = "image"
	stageMount      = "mount"
	stageRelabel    = "relabel volumes"
	stageCreate     = "create"
	stageStart      = "start"
)

// collectStart begins a start record. What has passed since the client's call is
// its first stage.
func collectStart(ctx context.Context) (context.Context, *operation.Timings) {
	ctx, timings := operation.Collect(ctx)
	if began := operation.From(ctx).Began(); !began.IsZero() {
		timings.Add(stageQueue, began, time.Since(began))
	}
	return ctx, timings
}

// startSteps turns what was collected into steps of a start record, and counts
// them.
func (s *Service) startSteps(timings *operation.Timings) []record.Step {
	var steps []record.Step
	for _, t := range timings.All() {
		steps = append(steps, record.Step{Stage: t.Stage, BeganAt: t.Began.UnixNano(), Took: t.Took})
		s.observeStart(t.Stage, t.Took)
	}
	return steps
}

func (s *Service) observeStart(stage string, took time.Duration) {
	if s.opts.ObserveStart != nil {
		s.opts.ObserveStart(stage, took)
	}
}

// ImagePulled adds a pull to the start record of the pod that it was for, if there
// is that pod. The kubelet says so with each pull.
//
// A pull that failed, with failure, is noted as well.
func (s *Service) ImagePulled(pod *runtimeapi.PodSandboxConfig, image string, began time.Time, took time.Duration, failure error) {
	if pod.GetMetadata() == nil {
		return
	}
	id, ok := s.sandboxes.named(sandboxKeyOf(pod.GetMetadata()))
	if !ok {
		return
	}
	sb, ok := s.sandboxes.get(id)
	if !ok {
		return
	}
	step := record.Step{Stage: stagePull, Image: image, BeganAt: began.UnixNano(), Took: took}
	if failure != nil {
		s.noteFailure(sb, step, failure)
		return
	}
	s.observeStart(stagePull, took)
	s.noteStart(sb, func(rec *record.Sandbox) {
		rec.Start = append(slices.Clip(rec.Start), step)
	})
}

// maxStartSteps bounds a start record: a pod that pulls again and again would let
// it grow.
const maxStartSteps = 64

// noteStart changes a start record that has room.
func (s *Service) noteStart(sb *sandbox, change func(*record.Sandbox)) {
	if len(sb.rec.Load().Start) < maxStartSteps {
		s.markSandbox(sb, change)
	}
}

// startStep is a step as a verbose status shows it.
type startStep struct {
	Stage     string    `json:"stage"`
	Container string    `json:"container,omitempty"`
	Image     string    `json:"image,omitempty"`
	Began     time.Time `json:"began"`
	// Milliseconds is what it took.
	Milliseconds float64 `json:"milliseconds"`
	// Error is why it failed, and Attempts how often, if more than once.
	Error    string `json:"error,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
}

func shownSteps(steps []record.Step, container string) []startStep {
	shown := make([]startStep, 0, len(steps))
	for _, step := range steps {
		shown = append(shown, startStep{
			Stage: step.Stage, Container: cmp.Or(step.Container, container), Image: step.Image,
			Error: step.Error, Attempts: step.Attempts,
			Began:        time.Unix(0, step.BeganAt).UTC(),
			Milliseconds: float64(step.Took.Microseconds()) / 1000,
		})
	}
	return shown
}

// podStart is how a pod came up, with its containers, in the order of time.
func podStart(sb *sandbox) []startStep {
	steps := shownSteps(sb.rec.Load().Start, "")
	for _, c := range sb.all() {
		steps = append(steps, shownSteps(c.rec.Load().Start, c.key.name)...)
	}
	slices.SortStableFunc(steps, func(a, b startStep) int { return cmp.Compare(a.Began.UnixNano(), b.Began.UnixNano()) })
	return steps
}
