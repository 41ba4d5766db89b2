package operation

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// Registry has the operations that run. The zero value is ready, and makes no
// traces.
type Registry struct {
	// Trace, if set before the first Begin, returns the span of an operation
	// that begins, or nil for one that is not traced.
	Trace func(ctx context.Context, method string) Span

	mu      sync.Mutex
	last    uint64
	running map[uint64]*Operation
}

// Options are the rarer things of Begin.
type Options struct {
	// Standing is an operation that lasts by its nature, as a stream of events
	// does.
	Standing bool
}

// Begin lists an operation until it ends and nobody Holds it. A nil Registry
// lists nothing. The operation ends with Operation.End.
func (r *Registry) Begin(ctx context.Context, method string, about Subject, options Options) (context.Context, *Operation) {
	if r == nil {
		return ctx, nil
	}
	o := &Operation{
		registry: r, method: method, standing: options.Standing,
		began: time.Now(), subject: about, users: 1,
	}
	if r.Trace != nil {
		if o.span = r.Trace(ctx, method); o.span != nil {
			about.tell(Subject{}, o.span)
		}
	}
	r.mu.Lock()
	r.last++
	o.id = r.last
	if r.running == nil {
		r.running = make(map[uint64]*Operation)
	}
	r.running[o.id] = o
	r.mu.Unlock()
	return context.WithValue(ctx, nodeKey{}, &node{op: o, span: o.span}), o
}

func (r *Registry) drop(o *Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, o.id)
}

// Info is a snapshot of an operation.
type Info struct {
	ID       uint64
	Method   string
	Subject  Subject
	Began    time.Time
	Standing bool
	// Answered says that the caller has its answer, Outcome, and that the work
	// goes on.
	Answered bool
	Outcome  error
	// Steps are what is under way: more than one where it does several things
	// at a time, none between two stages.
	Steps []Step
}

// Step is a stage at its innermost point.
type Step struct {
	// Stage is the name of the outermost stage; empty outside of any.
	Stage string
	// WaitsFor is what it waits for, or the stages within Stage.
	WaitsFor string
	// Since is when the innermost stage, or the wait, began.
	Since time.Time
}

// Running returns snapshots of all operations that run, the oldest first.
func (r *Registry) Running() []Info {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	all := make([]*Operation, 0, len(r.running))
	for _, o := range r.running {
		all = append(all, o)
	}
	r.mu.Unlock()
	infos := make([]Info, len(all))
	for i, o := range all {
		infos[i] = o.info()
	}
	slices.SortFunc(infos, func(a, b Info) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID))
	})
	return infos
}

func (o *Operation) info() Info {
	o.mu.Lock()
	info := Info{
		ID: o.id, Method: o.method, Subject: o.subject, Began: o.began,
		Standing: o.standing, Answered: o.answered, Outcome: o.outcome,
	}
	var leaves []*step
	for _, s := range o.active {
		if s.children == 0 {
			leaves = append(leaves, s)
		}
	}
	o.mu.Unlock()
	// What a step waits for may lock what an operation holds that reports a
	// stage: it is asked without the lock.
	for _, leaf := range leaves {
		info.Steps = append(info.Steps, leaf.describe())
	}
	return info
}

func (s *step) describe() Step {
	d := Step{Since: s.began}
	var names []string
	for at := s; at != nil; at = at.parent {
		if at.name != "" {
			names = append(names, at.name)
		}
	}
	slices.Reverse(names)
	if len(names) > 0 {
		d.Stage, names = names[0], names[1:]
	}
	d.WaitsFor = strings.Join(names, ": ")
	if s.waits != nil {
		d.WaitsFor = s.waits()
	}
	return d
}

// Others names the other operations that run and are about what match says: those
// whom one that waits for a shared thing waits for.
func Others(ctx context.Context, match func(Subject) bool) []string {
	self := From(ctx)
	if self == nil {
		return nil
	}
	r := self.registry
	r.mu.Lock()
	all := make([]*Operation, 0, len(r.running))
	for _, o := range r.running {
		if o != self && !o.standing {
			all = append(all, o)
		}
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b *Operation) int { return cmp.Compare(a.id, b.id) })
	var names []string
	for _, o := range all {
		if match(o.Subject()) {
			names = append(names, o.String())
		}
	}
	return names
}
