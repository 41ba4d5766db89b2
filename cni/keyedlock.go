package cni

import (
	"context"
	"sync"

	"github.com/berth-cri/berth/operation"
)

// keyedLock is a lock for each key. The zero value is ready.
type keyedLock struct {
	mu    sync.Mutex // guards locks
	locks map[string]*keyLock
}

type keyLock struct {
	users int // holder and waiters; the lock is forgotten with the last
	held  chan struct{}
}

// lock waits for the lock of key, or for ctx to end.
func (k *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = make(map[string]*keyLock)
	}
	l := k.locks[key]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
	defer operation.Wait(ctx, func() string { return "an earlier network operation of the pod" })()
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
