package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const undoTimeout = time.Minute

// undo collects how to take back what was done, until it is released.
type undo struct {
	steps []undoStep
}

type undoStep struct {
	what string
	do   func(context.Context) error
}

func (u *undo) add(what string, do func(context.Context) error) {
	u.steps = append(u.steps, undoStep{what, do})
}

// release keeps what was done.
func (u *undo) release() { u.steps = nil }

// run takes everything back, the last first, all of it whatever fails, even if
// ctx has ended. A second run does nothing.
func (u *undo) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for _, s := range slices.Backward(u.steps) {
		if err := s.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.what, err))
		}
	}
	u.release()
	return errors.Join(errs...)
}
