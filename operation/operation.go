// Package operation knows what the daemon is doing now. Each call of a client,
// and each work in the background, is an operation; it goes through stages, and
// can say what it waits for. That is carried in the context, so that the
// packages which do the work report it without knowing of each other or of who
// looks: `berth ops` lists what runs, traces are made of the same stages, and so
// are the records of how a pod came up.
//
// Everything here may be called with a context that has no operation: it does
// nothing then. Nothing waits, and nothing of a request but names and IDs is kept.
package operation

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Subject is what an operation is about, as far as it is known.
type Subject struct {
	Namespace   string `json:"namespace,omitempty"`
	Pod         string `json:"pod,omitempty"`
	UID         string `json:"uid,omitempty"`
	SandboxID   string `json:"sandboxID,omitempty"`
	Container   string `json:"container,omitempty"`
	ContainerID string `json:"containerID,omitempty"`
	Image       string `json:"image,omitempty"`
}

// Operation is one that runs. Begin makes it, End ends it, unless somebody has
// Held it: then it is over when that work is.
type Operation struct {
	registry *Registry
	id       uint64
	method   string
	standing bool
	began    time.Time
	span     Span

	mu      sync.Mutex
	subject Subject
	active  []*step
	// users counts who works on it; at 0 it is over.
	users    int
	answered bool
	outcome  error
}

// step is a stage that is under way, or a wait.
type step struct {
	parent *step
	name   string
	began  time.Time
	// waits tells what a wait is for; nil for a stage.
	waits func() string
	// children that are under way.
	children int
}

// node is what a context carries.
type node struct {
	op      *Operation
	step    *step
	span    Span
	timings *Timings
}

type nodeKey struct{}

func nodeOf(ctx context.Context) *node {
	n, _ := ctx.Value(nodeKey{}).(*node)
	return n
}

// From returns the operation of the context, or nil.
func From(ctx context.Context) *Operation {
	if n := nodeOf(ctx); n != nil {
		return n.op
	}
	return nil
}

// Carry returns to with the operation of from: for work that must not end with
// its caller.
func Carry(to, from context.Context) context.Context {
	if n := nodeOf(from); n != nil {
		return context.WithValue(to, nodeKey{}, n)
	}
	return to
}

// About adds to what the operation is about.
func About(ctx context.Context, add func(*Subject)) {
	o := From(ctx)
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.subject
	add(&o.subject)
	if o.span != nil {
		o.subject.tell(before, o.span)
	}
}

// Hold keeps the operation listed until release is called, also when its caller
// has had an answer before: work that goes on without a caller stays visible.
func Hold(ctx context.Context) (release func()) {
	o := From(ctx)
	if o == nil {
		return func() {}
	}
	o.mu.Lock()
	o.users++
	o.mu.Unlock()
	var once sync.Once
	return func() { once.Do(o.leave) }
}

// End says that the caller has its answer.
func (o *Operation) End(err error) {
	if o == nil {
		return
	}
	o.mu.Lock()
	o.answered, o.outcome = true, err
	o.mu.Unlock()
	if o.span != nil {
		o.span.End(err)
	}
	o.leave()
}

func (o *Operation) leave() {
	o.mu.Lock()
	o.users--
	over := o.users == 0
	o.mu.Unlock()
	if over {
		o.registry.drop(o)
	}
}

// Subject returns what the operation is about.
func (o *Operation) Subject() Subject {
	if o == nil {
		return Subject{}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.subject
}

// Began is when the operation began.
func (o *Operation) Began() time.Time {
	if o == nil {
		return time.Time{}
	}
	return o.began
}

// String names the operation for those who wait for it.
func (o *Operation) String() string {
	if o == nil {
		return "another call"
	}
	return fmt.Sprintf("%s (operation %d)", o.method, o.id)
}

// Stage begins a stage of the context's operation. What is begun with the
// context it returns is part of that stage. end is called once, with the stage's
// error; detail is pairs of key and value for its trace.
func Stage(ctx context.Context, name string, detail ...string) (_ context.Context, end func(error)) {
	parent := nodeOf(ctx)
	if parent == nil {
		return ctx, func(error) {}
	}
	n := &node{op: parent.op, step: &step{parent: parent.step, name: name, began: time.Now()}}
	n.op.enter(n.step)
	if parent.span != nil {
		n.span = parent.span.Child(name)
		n.set(detail)
	}
	return context.WithValue(ctx, nodeKey{}, n), func(err error) {
		n.op.exit(n.step)
		if n.span != nil {
			n.span.End(err)
		}
		if parent.timings != nil {
			parent.timings.add(name, n.step.began, time.Since(n.step.began), err)
		}
	}
}

// Trace is Stage for a part of a stage that only a trace shows.
func Trace(ctx context.Context, name string, detail ...string) (_ context.Context, end func(error)) {
	parent := nodeOf(ctx)
	if parent == nil || parent.span == nil {
		return ctx, func(error) {}
	}
	n := &node{op: parent.op, step: parent.step, span: parent.span.Child(name)}
	n.set(detail)
	return context.WithValue(ctx, nodeKey{}, n), n.span.End
}

// set adds pairs of key and value to the trace.
func (n *node) set(detail []string) {
	for i := 0; i+1 < len(detail); i += 2 {
		n.span.Set(detail[i], detail[i+1])
	}
}

// Wait says that the operation waits, until done is called; what is asked
// whenever somebody looks, from any goroutine, and must not block.
func Wait(ctx context.Context, what func() string) (done func()) {
	n := nodeOf(ctx)
	if n == nil || n.op == nil {
		return func() {}
	}
	s := &step{parent: n.step, began: time.Now(), waits: what}
	n.op.enter(s)
	return func() { n.op.exit(s) }
}

func (o *Operation) enter(s *step) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.active = append(o.active, s)
	if s.parent != nil {
		s.parent.children++
	}
}

func (o *Operation) exit(s *step) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.active {
		if o.active[i] == s {
			o.active = append(o.active[:i], o.active[i+1:]...)
			break
		}
	}
	if s.parent != nil {
		s.parent.children--
	}
}

// Do runs fn as a stage.
func Do(ctx context.Context, name string, fn func(context.Context) error) error {
	ctx, end := Stage(ctx, name)
	err := fn(ctx)
	end(err)
	return err
}

// Is tells whether the operation has that ID.
func (o *Operation) Is(id uint64) bool { return o != nil && o.id == id }
