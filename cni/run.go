package cni

import (
	"context"
	"sync"
	"time"

	"github.com/berth-cri/berth/operation"
)

const (
	// retryFirst and retryMost bound the pause before a failed DEL is tried again; it doubles.
	retryFirst = time.Second
	retryMost  = 5 * time.Minute
	// parallelRetries keeps hanging plugins from holding up the debts of other networks.
	parallelRetries = 4
)

// Run keeps the network up to date until ctx ends, and then returns nil: it follows the
// configuration and plugin directories, pays the debts of pods that are gone, asks plugins for
// their status and has them collect garbage. It is called once. The error is that of taking up
// the debts of an earlier run.
func (n *Networks) Run(ctx context.Context) error {
	if err := n.begin(); err != nil {
		return err
	}
	var group sync.WaitGroup
	changed := make(chan struct{}, 1)
	group.Go(func() { n.follow(ctx, changed) })
	group.Go(func() { n.runStatus(ctx, changed) })
	group.Go(func() { n.payDebts(ctx) })
	group.Go(func() { n.runGC(ctx) })
	group.Wait()
	return nil
}

// runStatus asks the plugins after each change and on a timer, more often while they are
// not ready.
func (n *Networks) runStatus(ctx context.Context, changed <-chan struct{}) {
	const whenReady, whenNot = 30 * time.Second, 5 * time.Second
	for {
		n.askPlugins(ctx)
		wait := whenReady
		if !n.Status().Ready {
			wait = whenNot
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(wait):
		}
	}
}

// retry is when a debt is due next.
type retry struct {
	due  time.Time
	wait time.Duration
}

// payDebts runs the DELs that are owed for released pods, each until it succeeds.
func (n *Networks) payDebts(ctx context.Context) {
	retries := make(map[string]retry)
	for ctx.Err() == nil {
		next := n.payDue(ctx, retries)
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
		case <-timer:
		case <-n.nudge:
		case <-n.hurry:
			clear(retries)
		}
	}
}

// payDue tries the debts that are due, forgets those that are paid, and returns when the next
// is due; zero is never.
func (n *Networks) payDue(ctx context.Context, retries map[string]retry) (next time.Time) {
	owed := make(map[string]bool)
	var due []string
	for _, d := range n.ledger.all() {
		if !d.Released {
			continue
		}
		owed[d.PodID] = true
		if !retries[d.PodID].due.After(time.Now()) {
			due = append(due, d.PodID)
		}
	}
	failed := n.payAll(ctx, due)
	for _, podID := range due {
		if !failed[podID] {
			delete(owed, podID)
			continue
		}
		wait := min(max(2*retries[podID].wait, retryFirst), retryMost)
		retries[podID] = retry{due: time.Now().Add(wait), wait: wait}
	}
	for podID, r := range retries {
		if !owed[podID] {
			delete(retries, podID)
		} else if next.IsZero() || r.due.Before(next) {
			next = r.due
		}
	}
	return next
}

// payAll returns the pods whose debt stays.
func (n *Networks) payAll(ctx context.Context, podIDs []string) (failed map[string]bool) {
	failed = make(map[string]bool)
	var mu sync.Mutex // guards failed
	var group sync.WaitGroup
	slots := make(chan struct{}, parallelRetries)
	for _, podID := range podIDs {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := n.payReleased(ctx, podID); err != nil {
				n.logger.Warn("network of a pod is not released yet", "pod", podID, "error", err)
				mu.Lock()
				failed[podID] = true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return failed
}

// payReleased pays a debt that is still released once the pod's lock is there: the pod may
// have been attached anew meanwhile.
func (n *Networks) payReleased(ctx context.Context, podID string) error {
	unlock, err := n.pods.lock(ctx, podID)
	if err != nil {
		return err
	}
	defer unlock()
	if d := n.ledger.get(podID); d == nil || !d.Released {
		return nil
	}
	ctx, op := n.operations.Begin(ctx, "background: release network", operation.Subject{SandboxID: podID}, operation.Options{})
	err = n.pay(ctx, podID, true)
	op.End(err)
	return err
}
