package runtimeservice

import (
	"context"
	"io"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/berth-cri/berth/runtimeservice/record"
)

// Attach connects the streams to those of a container's first process until they
// end or ctx does. Output comes from now on; for a container that is created and not
// yet started the call waits for the start, and all output comes. The container
// never waits for a client: one that is too slow is cut off. tty must be as in the
// container's configuration. A container that has ended, or whose start fails, is
// ErrFailedPrecondition or the error of the start.
func (s *sessions) Attach(ctx context.Context, id string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.containers.find(id)
	if err != nil {
		return err
	}
	aboutContainer(ctx, c)
	if err := c.requireAttachable(); err != nil {
		return err
	}
	if tty != c.config.GetTty() {
		return invalid("tty", "is %t, that of the container is %t", tty, c.config.GetTty())
	}
	p, err := openPipes(in != nil, out != nil, errw != nil && !tty)
	if err != nil {
		return err
	}
	ended, err := s.connect(ctx, c, p)
	if err != nil {
		p.closeOurs()
		return err
	}
	return s.attached(ctx, c, p, ended, in, out, errw, resize)
}

// connect gives the container its ends of the pipes, and closes ours of them.
func (s *sessions) connect(ctx context.Context, c *container, p *pipes) (ended <-chan struct{}, err error) {
	if c.state() == record.Created {
		ended, again, err := c.waitForStart(ctx, p)
		if !again {
			if err != nil && ctx.Err() == nil {
				p.closeTheirs()
			}
			return ended, err
		}
	}
	defer p.closeTheirs()
	if err := c.requireRunning(); err != nil {
		return nil, err
	}
	ended, err = s.monitor.Attach(ctx, p.request(c.id))
	return ended, c.orEnded(err)
}

// requireAttachable is the error of a container without streams, now or to come.
func (c *container) requireAttachable() error {
	if c.state() == record.Created {
		return c.sandbox.requireReady() // else it will never start
	}
	return c.requireRunning()
}

func (s *sessions) attached(ctx context.Context, c *container, p *pipes, ended <-chan struct{}, in io.Reader, out, errOut io.Writer, resize <-chan remotecommand.TerminalSize) error {
	pumps := p.startPumps(out, errOut)
	outputs := make(chan struct{})
	if len(pumps) > 0 {
		// A client that was cut off for being slow sees the end of its output.
		go func() {
			for _, pump := range pumps {
				<-pump.done
			}
			close(outputs)
		}()
	}
	if in != nil {
		feed(p.in, in, true)
		defer p.in.Close()
	}
	attached, detach := context.WithCancel(ctx)
	defer detach()
	go followSize(attached, resize, func(size remotecommand.TerminalSize) {
		if err := s.monitor.Resize(attached, c.id, size.Width, size.Height); err != nil && attached.Err() == nil {
			s.log.Debug("resize terminal", "container", c.id, "error", err)
		}
	})
	select {
	case <-ended:
	case <-outputs:
	case <-ctx.Done():
		stopAll(pumps)
		return ctx.Err()
	}
	drainAll(pumps)
	return nil
}
