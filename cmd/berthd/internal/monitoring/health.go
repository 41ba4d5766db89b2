// Package monitoring serves what an operator watches the daemon by: metrics for
// Prometheus, its health, and Go's profiles.
package monitoring

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// checkTimeout is how long a check may take before it counts as failed.
const checkTimeout = 5 * time.Second

// Check returns nil if what it looks at works.
type Check func(context.Context) error

// Result is what one check found.
type Result struct {
	Name string
	Err  error
}

// ErrNotServing is the health of a daemon that starts or stops.
var ErrNotServing = errors.New("not serving")

// Health knows whether the daemon works. A new one is not serving.
type Health struct {
	mu      sync.Mutex
	serving bool
	checks  []*namedCheck
}

// Add adds a check; it may be called by several goroutines at a time, but never
// runs twice at the same time.
func (h *Health) Add(name string, check Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, &namedCheck{name: name, check: check})
}

// SetServing says whether start-up is over and shutdown has not begun.
func (h *Health) SetServing(serving bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serving = serving
}

// Results runs all checks side by side. It returns in time even if a check
// hangs.
func (h *Health) Results(ctx context.Context) []Result {
	h.mu.Lock()
	checks, serving := h.checks, h.serving
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	results := make([]Result, len(checks)+1)
	results[0].Name = "serving"
	if !serving {
		results[0].Err = ErrNotServing
	}
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i+1] = Result{c.name, c.run(ctx)} })
	}
	wg.Wait()
	return results
}

// Check is nil if the daemon serves and every check passes.
func (h *Health) Check(ctx context.Context) error {
	var errs []error
	for _, r := range h.Results(ctx) {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Name, r.Err))
		}
	}
	return errors.Join(errs...)
}

// namedCheck runs a check in a goroutine of its own, one at a time: those who
// ask while it runs share its answer, and one that hangs costs one goroutine
// however often it is asked for.
type namedCheck struct {
	name  string
	check Check

	mu      sync.Mutex
	running *answer
}

type answer struct {
	done chan struct{}
	err  error
}

func (c *namedCheck) run(ctx context.Context) error {
	a := c.start(context.WithoutCancel(ctx))
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", ctx.Err())
	}
}

func (c *namedCheck) start(ctx context.Context) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil {
		return c.running
	}
	a := &answer{done: make(chan struct{})}
	c.running = a
	go func() {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		a.err = c.check(ctx)
		c.mu.Lock()
		c.running = nil
		c.mu.Unlock()
		close(a.done)
	}()
	return a
}
