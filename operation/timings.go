package operation

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Timing is a stage that is over.
type Timing struct {
	Stage string
	Began time.Time
	Took  time.Duration
	// Failed says that it ended with an error.
	Failed bool
}

// Timings collects stages in the order in which they end.
type Timings struct {
	mu   sync.Mutex
	list []Timing
}

// Collect returns a context whose stages are collected; stages within those are
// not. It needs no operation.
func Collect(ctx context.Context) (context.Context, *Timings) {
	n := node{timings: &Timings{}}
	if parent := nodeOf(ctx); parent != nil {
		n.op, n.step, n.span = parent.op, parent.step, parent.span
	}
	return context.WithValue(ctx, nodeKey{}, &n), n.timings
}

// Add adds a stage that was not begun with Stage.
func (t *Timings) Add(stage string, began time.Time, took time.Duration) {
	t.add(stage, began, took, nil)
}

func (t *Timings) add(stage string, began time.Time, took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, Timing{stage, began, took, err != nil})
}

// All returns what was collected so far; of a nil Timings, nothing.
func (t *Timings) All() []Timing {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list)
}
