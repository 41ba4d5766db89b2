package runtimeservice

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/record"
)

const (
	// killAgainEvery is how often SIGKILL is repeated for a container whose
	// processes fork faster than they are killed, or whose monitor restarts.
	killAgainEvery = 500 * time.Millisecond
	// killTimeout is how long SIGKILL may take: a process that is in the
	// kernel, on a dead volume, does not end.
	killTimeout = 30 * time.Second
	// lostAfter is how long the monitor may know nothing of a container before
	// its end counts as one that nobody saw.
	lostAfter = 2 * time.Second
)

// StopContainer asks the container's process to end, with its stop signal, and
// kills it after timeout; 0 kills it at once. It returns when the process has
// ended. It is idempotent: a container that does not run, or does not exist, is
// stopped. A second call with a shorter timeout shortens a first one's; none
// sends the signal again. When ctx ends the container is stopped all the same.
// The error is context.DeadlineExceeded for a process that cannot be killed.
func (s *Service) StopContainer(ctx context.Context, id string, timeout time.Duration) error {
	c, err := s.containers.find(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	aboutContainer(ctx, c)
	if err := s.stopContainer(ctx, c, max(timeout, 0)); err != nil {
		return fmt.Errorf("stop container %s: %w", c.id, err)
	}
	return nil
}

// stopping is one run of stopping a container, shared by all who ask for it.
type stopping struct {
	by   *operation.Operation
	done chan struct{} // closed when err is set
	err  error

	mu       sync.Mutex
	deadline time.Time
	sooner   chan struct{} // has an element when deadline was moved up
}

// moveUp moves the deadline up, never down.
func (st *stopping) moveUp(deadline time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !deadline.Before(st.deadline) {
		return
	}
	st.deadline = deadline
	select {
	case st.sooner <- struct{}{}:
	default:
	}
}

func (st *stopping) remaining() time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	return time.Until(st.deadline)
}

// stopContainer stops a container that may be starting; one that was only
// created stays as it is.
func (s *Service) stopContainer(ctx context.Context, c *container, timeout time.Duration) error {
	// After a start that is under way, and its record.
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	st := s.stopRun(ctx, c, timeout)
	c.op.release()
	if err := st.wait(ctx); err != nil {
		return err
	}
	s.plugins.containerEnded(ctx, c)
	return nil
}

// wait waits for the end of a run; there may be none.
func (st *stopping) wait(ctx context.Context) error {
	if st == nil {
		return nil
	}
	if st.by != operation.From(ctx) {
		defer operation.Wait(ctx, func() string { return fmt.Sprintf("%v, which stops the container", st.by) })()
	}
	select {
	case <-st.done:
		return st.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stopRun returns the run that stops the container, a new one if there is none;
// nil if there is nothing to be stopped.
func (s *Service) stopRun(ctx context.Context, c *container, timeout time.Duration) *stopping {
	deadline := time.Now().Add(timeout)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		c.stop.moveUp(deadline)
		return c.stop
	}
	if c.rec.Load().State != record.Running {
		return nil
	}
	st := &stopping{by: operation.From(ctx), done: make(chan struct{}), deadline: deadline, sooner: make(chan struct{}, 1)}
	c.stop = st
	release := operation.Hold(ctx)
	ctx = operation.Carry(context.Background(), ctx)
	s.background.begin()
	go func() {
		defer s.background.end()
		defer release()
		err := s.stopWithin(ctx, c, st, timeout > 0)
		c.mu.Lock()
		c.stop = nil
		c.mu.Unlock()
		st.err = err
		close(st.done)
	}()
	return st
}

func (s *Service) stopWithin(ctx context.Context, c *container, st *stopping, ask bool) error {
	if ask {
		if s.askAndWait(ctx, c, st) {
			return s.releaseStopped(ctx, c)
		}
	}
	if err := operation.Do(ctx, "kill", func(ctx context.Context) error { return s.kill(ctx, c) }); err != nil {
		return err
	}
	return s.releaseStopped(ctx, c)
}

// askAndWait sends the stop signal and tells whether the process ended by the
// deadline.
func (s *Service) askAndWait(ctx context.Context, c *container, st *stopping) bool {
	ctx, end := operation.Stage(ctx, "stop signal")
	defer end(nil)
	s.askToEnd(ctx, c)
	defer operation.Wait(ctx, func() string {
		return fmt.Sprintf("the container to end after signal %d; it is killed in %s", c.stopSignal(), max(0, st.remaining()).Round(time.Second/10))
	})()
	return waitUntil(c.exited, st)
}

func (s *Service) askToEnd(ctx context.Context, c *container) {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	err := s.opts.Processes.Signal(ctx, c.id, c.stopSignal(), false)
	if err != nil && !errdefs.IsNotFound(err) {
		// It is killed when its time is over.
		s.log.Warn("send stop signal", "container", c.id, "signal", c.stopSignal(), "error", err)
	}
}

// waitUntil waits for the deadline, which can be moved up meanwhile, and tells
// whether the process had ended by then.
func waitUntil(exited <-chan struct{}, st *stopping) bool {
	timer := time.NewTimer(st.remaining())
	defer timer.Stop()
	for {
		select {
		case <-exited:
			return true
		case <-timer.C:
			return false
		case <-st.sooner:
			timer.Reset(st.remaining())
		}
	}
}

// kill kills all processes of the container and waits for their end.
func (s *Service) kill(ctx context.Context, c *container) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	defer operation.Wait(ctx, func() string { return "the end of the container's processes after SIGKILL" })()
	again := time.NewTicker(killAgainEvery)
	defer again.Stop()
	var (
		last    error
		unknown time.Time // since when the monitor has known nothing of it
	)
	for {
		switch err := s.opts.Processes.Signal(ctx, c.id, syscall.SIGKILL, true); {
		case !errdefs.IsNotFound(err):
			last, unknown = err, time.Time{}
		case unknown.IsZero():
			unknown = time.Now() // its end is on the way to HandleExit
		case time.Since(unknown) > lostAfter:
			s.exitedWith(c, lostExit(c.id, "the monitor knows nothing of the container"))
		}
		select {
		case <-c.exited:
			return nil
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("no end within %s of SIGKILL, is it in uninterruptible sleep? (last error: %v): %w", killTimeout, last, ctx.Err())
		}
	}
}

// releaseStopped is releaseContainer for one who is told that it is stopped, and
// may take that for none of its processes being there.
func (s *Service) releaseStopped(ctx context.Context, c *container) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return s.releaseContainer(ctx, c)
}
