package runtimeservice

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-cri/berth/operation"
)

// lock is a mutex whose waiters give up when their context ends, and can tell
// whom they wait for.
type lock struct {
	of     string // for those who look at who waits
	slot   chan struct{}
	holder atomic.Pointer[tenure]
}

// tenure is who has a lock, and since when.
type tenure struct {
	by    *operation.Operation
	since time.Time
}

func newLock(of string) *lock { return &lock{of: of, slot: make(chan struct{}, 1)} }

func (l *lock) acquire(ctx context.Context) error {
	select {
	case l.slot <- struct{}{}:
		l.taken(ctx)
		return nil
	default:
	}
	defer operation.Wait(ctx, l.describe)()
	select {
	case l.slot <- struct{}{}:
		l.taken(ctx)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lock) taken(ctx context.Context) {
	l.holder.Store(&tenure{operation.From(ctx), time.Now()})
}

func (l *lock) release() {
	l.holder.Store(nil)
	<-l.slot
}

func (l *lock) describe() string {
	t := l.holder.Load()
	if t == nil {
		return "its turn at " + l.of
	}
	return fmt.Sprintf("%s, held by %v since %s", l.of, t.by, time.Since(t.since).Round(time.Second/10))
}

// acquireMembers takes the members of a sandbox, in part (1) or in whole
// (wholeSandbox).
func (sb *sandbox) acquireMembers(ctx context.Context, n int64) error {
	if sb.members.TryAcquire(n) {
		return nil
	}
	defer operation.Wait(ctx, func() string {
		users := operation.Others(ctx, func(s operation.Subject) bool { return s.SandboxID == sb.id })
		if len(users) == 0 {
			return "its turn at the sandbox"
		}
		return "its turn at the sandbox, after " + strings.Join(users, ", ")
	})()
	return sb.members.Acquire(ctx, n)
}
