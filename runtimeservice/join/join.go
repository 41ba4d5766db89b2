// Package join lets callers who ask for the same thing at the same time share
// one run of it, and lets a run outlive the caller who started it.
//
// A kubelet's call ends at its deadline, and the kubelet then asks again. The
// work must neither be broken off half-way nor be started a second time beside
// the first; and when it succeeds after its only caller has gone, its result
// is kept for the next one who asks.
package join

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/berth-cri/berth/operation"
)

// Group joins calls by key. The zero value is ready.
//
//	            Do                     fn succeeds, callers waiting
//	(no call) ──────▶ running ──────────────────────────────▶ (no call)
//	                    │  │ fn fails                            ▲
//	                    │  └────────────────────────────────────▶│
//	                    │ fn succeeds, nobody waits              │
//	                    └──────────▶ undelivered ─── Do, Forget ─┘
type Group[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
}

type call[V any] struct {
	done    chan struct{} // closed when value and err are set
	by      *operation.Operation
	waiters int
	value   V
	err     error
}

// Do returns the result of fn. If a call with the same key is running it waits
// for that one's result in place of running fn; if one has succeeded whose
// result nobody took, it takes that. When ctx ends first Do returns its error,
// and fn goes on. fn runs in a goroutine of its own with the values of ctx but
// not its end: it must bound itself. A panic of fn becomes an error.
func (g *Group[K, V]) Do(ctx context.Context, key K, fn func(context.Context) (V, error)) (V, error) {
	g.mu.Lock()
	c, running := g.calls[key]
	if !running {
		c = &call[V]{done: make(chan struct{}), by: operation.From(ctx)}
		if g.calls == nil {
			g.calls = make(map[K]*call[V])
		}
		g.calls[key] = c
		release := operation.Hold(ctx)
		go func() {
			defer release()
			g.run(context.WithoutCancel(ctx), key, c, fn)
		}()
	}
	c.waiters++
	g.mu.Unlock()

	joined := func() {}
	if running {
		joined = operation.Wait(ctx, func() string { return fmt.Sprintf("%v for the same, which it has joined", c.by) })
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	joined()

	g.mu.Lock()
	defer g.mu.Unlock()
	c.waiters--
	select {
	case <-c.done:
		if ctx.Err() == nil {
			g.drop(key, c)
			return c.value, c.err
		}
	default:
	}
	var zero V
	return zero, ctx.Err()
}

// Forget drops an undelivered result of key, if there is one: the thing is
// gone. A running call is left alone.
func (g *Group[K, V]) Forget(key K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.calls[key]; c != nil {
		select {
		case <-c.done:
			delete(g.calls, key)
		default:
		}
	}
}

// Keep makes value the undelivered result of key: the next Do takes it. It is
// for results found at start whose callers the last run did not answer.
func (g *Group[K, V]) Keep(key K, value V) {
	c := &call[V]{done: make(chan struct{}), value: value}
	close(c.done)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls == nil {
		g.calls = make(map[K]*call[V])
	}
	g.calls[key] = c
}

func (g *Group[K, V]) run(ctx context.Context, key K, c *call[V], fn func(context.Context) (V, error)) {
	defer func() {
		if p := recover(); p != nil {
			c.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		close(c.done)
		if c.err != nil {
			g.drop(key, c)
		}
	}()
	c.value, c.err = fn(ctx)
}

// drop removes c from the map if it is still what stands there for key.
func (g *Group[K, V]) drop(key K, c *call[V]) {
	if g.calls[key] == c {
		delete(g.calls, key)
	}
}
