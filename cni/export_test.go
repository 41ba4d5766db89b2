package cni

import (
	"context"
	"errors"
)

// Collect runs one garbage collection for the tests outside of the package.
func Collect(ctx context.Context, n *Networks) error { return n.collect(ctx) }

// AtExit has clean run after the last test.
func AtExit(clean func()) { atExit = append(atExit, clean) }

// DropHolds lets the namespaces of all debts go.
func DropHolds(n *Networks) error {
	var errs []error
	for _, d := range n.ledger.all() {
		errs = append(errs, n.holds.drop(d.PodID))
	}
	return errors.Join(errs...)
}

// PayDue retries the DELs that are owed, on the calling thread.
func PayDue(ctx context.Context, n *Networks) {
	for _, d := range n.ledger.all() {
		_ = n.payReleased(ctx, d.PodID)
	}
}
