package runtimeservice

import (
	"slices"
	"strings"
	"time"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// maxStepError bounds the text of a failure in a start record.
const maxStepError = 512

// failedSteps turns what was collected of a start that failed into steps. The error
// is that of the last stage that failed, else of the last one.
func failedSteps(timings *operation.Timings, cause error) []record.Step {
	var steps []record.Step
	at := -1
	for i, t := range timings.All() {
		steps = append(steps, record.Step{Stage: t.Stage, BeganAt: t.Began.UnixNano(), Took: t.Took})
		if t.Failed {
			at = i
		}
	}
	if len(steps) == 0 {
		steps = append(steps, record.Step{Stage: stageStart, BeganAt: time.Now().UnixNano()})
	}
	if at < 0 {
		at = len(steps) - 1
	}
	steps[at].Error = shortened(cause)
	return steps
}

// noteCreated notes a container that could not be created in the record of its pod: it
// has none of its own.
func (s *Service) noteCreated(sb *sandbox, name string, timings *operation.Timings, err error) {
	if err == nil || timings == nil {
		return
	}
	steps := failedSteps(timings, err)
	i := slices.IndexFunc(steps, func(step record.Step) bool { return step.Error != "" })
	step := steps[i]
	step.Container = name
	s.noteFailure(sb, step, err)
}

// noteFailure adds a step that failed to the pod's start record. One that fails again
// and again is noted once, with how often.
func (s *Service) noteFailure(sb *sandbox, step record.Step, cause error) {
	step.Error = shortened(cause)
	s.noteStart(sb, func(rec *record.Sandbox) {
		steps := slices.Clone(rec.Start)
		i := slices.IndexFunc(steps, func(before record.Step) bool {
			return before.Error != "" && before.Stage == step.Stage && before.Image == step.Image && before.Container == step.Container
		})
		if i >= 0 {
			step.Attempts = max(steps[i].Attempts, 1) + 1
			steps = slices.Delete(steps, i, i+1)
		}
		rec.Start = append(steps, step)
	})
}

// shortened is one line.
func shortened(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(text) > maxStepError {
		text = strings.ToValidUTF8(text[:maxStepError], "") + "…"
	}
	return text
}
