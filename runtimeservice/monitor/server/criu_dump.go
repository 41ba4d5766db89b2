package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// dumpLog is CRIU's log of a dump, in the directory of the images.
const dumpLog = "dump.log"

// dump writes CRIU's images of a frozen container. The container stays frozen, until the
// hold that has it frozen ends; a dump that is under way then is cut off.
func (s *Server) dump(req *protocol.Dump) error {
	c, err := s.find(req.ID)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(req.Images) {
		return fmt.Errorf("directory of images %q is not absolute: %w", req.Images, errdefs.ErrInvalidArgument)
	}
	c.mu.Lock()
	h := c.hold
	c.mu.Unlock()
	if h == nil {
		return fmt.Errorf("dump container %q: it is not frozen: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	h.work.RLock()
	defer h.work.RUnlock()
	if err := s.criu.take(h.ctx); err != nil {
		return fmt.Errorf("dump container %q: %w", c.id, err)
	}
	defer s.criu.give()
	if err := context.Cause(h.ctx); err != nil {
		return fmt.Errorf("dump container %q: %w", c.id, err)
	}
	ticket := s.orphans.begin()
	defer s.orphans.finish(ticket)
	stop := whenDone(h.ctx, killCRIU)
	err = c.keeper().dump(h.ctx, req)
	stop()
	if err != nil {
		// The program of another runtime that was ended leaves its CRIU to us. That would
		// freeze the container again when it is done.
		killCRIU()
	}
	untrace(c.cgroups())
	switch {
	case err == nil:
		return nil
	case h.ctx.Err() != nil:
		return fmt.Errorf("dump container %q: %w", c.id, errors.Join(context.Cause(h.ctx), err))
	default:
		return fmt.Errorf("dump container %q: %w", c.id, criuError(err, req.Images, dumpLog))
	}
}

// dump of the built-in runtime waits for CRIU without an end.
func (b *builtin) dump(_ context.Context, req *protocol.Dump) error {
	lib, err := b.c.libcontainer()
	if err != nil {
		return err
	}
	options := criuOptions(req.CRIUOptions, req.Images, req.Images)
	options.LeaveRunning = true
	return lib.Checkpoint(options)
}

// whenDone calls f again and again once ctx has ended, until the function that it returns
// is called.
func whenDone(ctx context.Context, f func()) (stop func()) {
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-stopped:
			return
		case <-ctx.Done():
		}
		for {
			f()
			select {
			case <-stopped:
				return
			case <-time.After(tracerInterval):
			}
		}
	}()
	return func() {
		close(stopped)
		<-ended
	}
}

func (x *external) dump(ctx context.Context, req *protocol.Dump) error {
	return x.runtime.Checkpoint(ctx, x.c.id, req.Images, ociruntimeOptions(req.CRIUOptions))
}
