// Package undo takes back what an operation did when it does not come to its
// end.
//
//	var u undo.Stack
//	defer func() {
//		if err != nil {
//			err = errors.Join(err, u.Run(ctx, log))
//		}
//	}()
//	u.Add("remove directory", time.Second, func(context.Context) error { return os.RemoveAll(dir) })
//	err = os.Mkdir(dir, 0o700)
//
// A step is added before the thing is done that it takes back, so it must cope
// with that not having happened: an operation that failed half-way, or that did
// not tell how far it came, can leave something behind too.
package undo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Stack is a list of steps, run from the last to the first. The zero value is
// an empty one. It is not for use by several goroutines at a time.
type Stack struct {
	steps []step
}

type step struct {
	description string
	timeout     time.Duration
	do          func(context.Context) error
}

// Add puts a step on the stack. Its context ends after timeout, whatever
// becomes of that of Run.
func (s *Stack) Add(description string, timeout time.Duration, do func(context.Context) error) {
	s.steps = append(s.steps, step{description, timeout, do})
}

// Run takes the steps from the stack, the last first, and runs all of them,
// also when one fails. Each failure is logged and is part of the error. The
// values of ctx are kept, its end is not: undoing is most needed after a
// deadline.
func (s *Stack) Run(ctx context.Context, log *slog.Logger) error {
	var errs []error
	for len(s.steps) > 0 {
		last := s.steps[len(s.steps)-1]
		s.steps = s.steps[:len(s.steps)-1]
		if err := last.run(ctx); err != nil {
			log.Error("undo", "step", last.description, "error", err)
			errs = append(errs, fmt.Errorf("undo: %s: %w", last.description, err))
		}
	}
	return errors.Join(errs...)
}

// Release forgets all steps: the operation has come to its end.
func (s *Stack) Release() { s.steps = nil }

func (st step) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), st.timeout)
	defer cancel()
	return st.do(ctx)
}
