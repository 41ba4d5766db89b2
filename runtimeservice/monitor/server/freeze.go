package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// A hold is what keeps containers frozen: it ends with a thaw, with the connection of the
// client, or with its time, and then they go on whatever is under way.
type hold struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	all    []*container
	// work is held in part by what freezes and dumps the containers, in whole by the end
	// of the hold: nothing freezes after that.
	work  sync.RWMutex
	ended chan struct{}
}

var (
	errThawed    = fmt.Errorf("the containers are to go on: %w", context.Canceled)
	errFreezeEnd = fmt.Errorf("the time for which the containers may stand still is over: %w", context.DeadlineExceeded)
	errRemoved   = fmt.Errorf("a container is removed: %w", errdefs.ErrFailedPrecondition)
	errLeft      = fmt.Errorf("the client that had the containers frozen is gone: %w", errdefs.ErrUnavailable)
)

// freeze freezes containers, all or none, until thaw or one of the other ends.
func (s *Server) freeze(req *protocol.Freeze, gone <-chan struct{}) error {
	if len(req.IDs) == 0 || req.Longest <= 0 {
		return fmt.Errorf("freeze %d containers for %s: %w", len(req.IDs), req.Longest, errdefs.ErrInvalidArgument)
	}
	h := &hold{ended: make(chan struct{})}
	for _, id := range req.IDs {
		c, err := s.find(id)
		if err != nil {
			return err
		}
		h.all = append(h.all, c)
	}
	ctx, stop := context.WithTimeoutCause(context.Background(), req.Longest, errFreezeEnd)
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	if req.Dump {
		if err := s.requireCRIU(h.ctx); err != nil {
			stop()
			return err
		}
	}
	if err := h.claim(); err != nil {
		stop()
		return err
	}
	h.work.RLock()
	go func() {
		defer stop()
		select {
		case <-gone:
			h.cancel(errLeft)
		case <-h.ctx.Done():
		}
		h.end()
	}()
	err := h.freeze()
	h.work.RUnlock()
	if err != nil {
		h.cancel(err)
		<-h.ended
	}
	return err
}

// claim makes the hold the one of its containers.
func (h *hold) claim() error {
	for i, c := range h.all {
		if err := c.claimHold(h); err != nil {
			for _, claimed := range h.all[:i] {
				claimed.dropHold(h, false)
			}
			close(h.ended)
			return fmt.Errorf("freeze container %q: %w", c.id, err)
		}
	}
	return nil
}

// claimHold notes in the record that the container will be frozen.
func (c *container) claimHold(h *hold) error {
	f, err := freezerOf(c.cgroups())
	if err != nil {
		return err
	}
	frozen, err := f.isFrozen()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.phase != running:
		return fmt.Errorf("it does not run: %w", errdefs.ErrFailedPrecondition)
	case c.hold != nil || frozen:
		return fmt.Errorf("it is frozen already: %w", errdefs.ErrFailedPrecondition)
	}
	c.rec.Frozen = true
	if err := c.save(); err != nil {
		c.rec.Frozen = false
		return err
	}
	c.hold = h
	return nil
}

// dropHold is the last step of a hold's end. A container that is still frozen stays so in
// the record: the next monitor tries again.
func (c *container) dropHold(h *hold, frozen bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hold != h {
		return
	}
	c.hold, c.rec.Frozen = nil, frozen
	if err := c.save(); err != nil {
		c.server.log.Error("record that container goes on", "container", c.id, "error", err)
	}
}

// enter notes that a process is being put into the container, until leave is called. It
// waits while the container is held: the process would stand still half-way in, with
// libcontainer's lock, which a dump needs.
func (c *container) enter() (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h := c.hold; h != nil; h = c.hold {
		c.mu.Unlock()
		<-h.ended
		c.mu.Lock()
	}
	c.entering++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.entering--
	}
}

// waitEntered returns when no process is on its way into a container of the hold.
func (h *hold) waitEntered() error {
	for _, c := range h.all {
		for c.isEntered() {
			select {
			case <-h.ctx.Done():
				return fmt.Errorf("wait for a process that is being started in container %q: %w", c.id, context.Cause(h.ctx))
			case <-time.After(freezeInterval):
			}
		}
	}
	return nil
}

func (c *container) isEntered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entering > 0
}

// freeze tells all to stand still before it waits for one.
func (h *hold) freeze() error {
	if err := h.waitEntered(); err != nil {
		return err
	}
	for _, wait := range []bool{false, true} {
		for _, c := range h.all {
			f, err := freezerOf(c.cgroups())
			if err == nil && !wait {
				err = f.write(f.freeze)
			}
			if err == nil && wait {
				err = f.waitFrozen(h.ctx)
			}
			if err != nil {
				return fmt.Errorf("freeze container %q: %w", c.id, err)
			}
		}
	}
	return nil
}

// end thaws. A dump under way ends first: its context has ended.
func (h *hold) end() {
	h.work.Lock()
	defer h.work.Unlock()
	for _, c := range h.all {
		err := c.thaw()
		if err != nil {
			c.server.log.Error("let container go on", "container", c.id, "error", err)
		}
		c.dropHold(h, err != nil)
	}
	close(h.ended)
}

// thawTime bounds how long a cgroup is told to go on before that is given up: the file is
// there and cannot be written.
const thawTime = 5 * time.Second

// thaw thaws the container's cgroup.
func (c *container) thaw() error {
	f, err := freezerOf(c.cgroups())
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(thawTime); ; time.Sleep(freezeInterval) {
		if err = f.write(f.thaw); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// thaw lets containers go on. One that did not stand still until now is an error: what was
// read meanwhile is not of one instant. All others go on nevertheless.
func (s *Server) thaw(req *protocol.Frozen) error {
	var errs []error
	for _, id := range req.IDs {
		h := s.holdOf(id)
		if h == nil || h.ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("container %q did not stand still all the time: %w", id, errdefs.ErrFailedPrecondition))
		}
		if h != nil {
			defer func() {
				h.cancel(errThawed)
				<-h.ended
			}()
		}
	}
	return errors.Join(errs...)
}

// holdOf is the hold that keeps a container frozen; nil if there is none.
func (s *Server) holdOf(id string) *hold {
	c := s.get(id)
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hold
}

// thawLeft lets a container go on that an earlier monitor had frozen: at once, if CRIU is
// not at work on it. CRIU notices that nobody listens to it any more, undoes what it did
// and leaves the container frozen, as it found it.
func (c *container) thawLeft() {
	untrace(c.cgroups())
	err := c.thaw()
	c.mu.Lock()
	c.rec.Frozen = err != nil
	err = errors.Join(err, c.save())
	c.mu.Unlock()
	if err != nil {
		c.server.log.Error("let container go on that the monitor before had frozen", "container", c.id, "error", err)
	}
}
