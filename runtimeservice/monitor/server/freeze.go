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
	// dumps is held in part by dumps of its containers, in whole by the end of the hold.
	dumps sync.RWMutex
	ended chan struct{}
}

var (
	errThawed    = fmt.Errorf("the containers are to go on: %w", context.Canceled)
	errFreezeEnd = fmt.Errorf("the time for which the containers may stand still is over: %w", context.DeadlineExceeded)
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
	if err := s.requireCRIU(h.ctx); err != nil {
		stop()
		return err
	}
	if err := h.claim(); err != nil {
		stop()
		return err
	}
	go func() {
		defer stop()
		select {
		case <-gone:
			h.cancel(errLeft)
		case <-h.ctx.Done():
		}
		h.end()
	}()
	if err := h.freeze(); err != nil {
		h.cancel(err)
		<-h.ended
		return err
	}
	return nil
}

// claim makes the hold the one of its containers.
func (h *hold) claim() error {
	for i, c := range h.all {
		if err := c.claimHold(h); err != nil {
			for _, claimed := range h.all[:i] {
				claimed.dropHold(h)
			}
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

// dropHold is the last step of a hold's end.
func (c *container) dropHold(h *hold) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hold != h {
		return
	}
	c.hold, c.rec.Frozen = nil, false
	if err := c.save(); err != nil {
		c.server.log.Error("record that container goes on", "container", c.id, "error", err)
	}
}

// freeze tells all to stand still before it waits for one.
func (h *hold) freeze() error {
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
	h.dumps.Lock()
	defer h.dumps.Unlock()
	for _, c := range h.all {
		if err := c.goOn(); err != nil {
			c.server.log.Error("let container go on", "container", c.id, "error", err)
		}
		c.dropHold(h)
	}
	close(h.ended)
}

// goOnTime bounds how long a cgroup is told to go on before that is given up: the file is
// there and cannot be written.
const goOnTime = 5 * time.Second

// goOn thaws the container's cgroup.
func (c *container) goOn() error {
	f, err := freezerOf(c.cgroups())
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(goOnTime); ; time.Sleep(freezeInterval) {
		if err = f.write(f.thaw); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// thaw lets containers go on. It is idempotent.
func (s *Server) thaw(req *protocol.Frozen) error {
	holds := map[*hold]bool{}
	for _, id := range req.IDs {
		s.mu.Lock()
		c := s.containers[id]
		s.mu.Unlock()
		if c == nil {
			continue
		}
		c.mu.Lock()
		if c.hold != nil {
			holds[c.hold] = true
		}
		c.mu.Unlock()
	}
	for h := range holds {
		h.cancel(errThawed)
		<-h.ended
	}
	return nil
}

// thawLeft lets a container go on that an earlier monitor had frozen: at once, if CRIU is
// not at work on it. CRIU notices that nobody listens to it any more, undoes what it did
// and leaves the container frozen, as it found it.
func (c *container) thawLeft() {
	paths := c.cgroups()
	for deadline := time.Now().Add(tracerTime); len(tracersOf(paths)) > 0; time.Sleep(tracerInterval) {
		if time.Now().After(deadline) {
			killTracers(paths)
		}
		if time.Now().After(deadline.Add(tracerTime)) {
			break
		}
	}
	err := c.goOn()
	c.mu.Lock()
	c.rec.Frozen = false
	err = errors.Join(err, c.save())
	c.mu.Unlock()
	if err != nil {
		c.server.log.Error("let container go on that the monitor before had frozen", "container", c.id, "error", err)
	}
}
