package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// Client speaks with the monitor of a directory. Its methods may be called at
// the same time. While the monitor is replaced they wait for the new one, as
// long as their context allows.
type Client struct {
	options Options
	log     *slog.Logger

	// connecting is held while a connection is made.
	connecting sync.Mutex

	mu      sync.Mutex
	session *session      // nil while there is none
	changed chan struct{} // closed and replaced when session or closed changes
	closed  bool
	kept    map[string]*kept
	exits   exitQueue
}

// New makes a client; nothing happens before Connect.
func New(options Options) *Client {
	c := &Client{
		options: options, log: options.Logger,
		changed: make(chan struct{}),
		kept:    map[string]*kept{},
	}
	c.exits.wake = make(chan struct{}, 1)
	c.exits.told = map[string]time.Time{}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Connect connects to the living monitor of the directory, or starts one and
// gives it what this client has kept. A monitor that runs another program than
// Options.Binary is upgraded in place; if that fails the one of before goes on. It is
// an error if the client already is connected.
func (c *Client) Connect(ctx context.Context) error {
	c.mu.Lock()
	connected, first := c.session != nil, !c.exits.started
	c.exits.started = true
	c.mu.Unlock()
	if connected {
		return fmt.Errorf("connect to monitor: connected already: %w", errdefs.ErrFailedPrecondition)
	}
	if first {
		go c.dispatchExits()
	}
	if err := c.connectFirst(ctx); err != nil {
		return err
	}
	return c.refresh(ctx)
}

// connectFirst is connect that tries again for two seconds and a half. After a kill of both
// programs the old monitor may still have its socket or its lock; or the daemon before has
// started a monitor that has its lock and does not listen yet.
func (c *Client) connectFirst(ctx context.Context) error {
	for pause := minPause; ; pause *= 2 {
		err := c.connect(ctx)
		if err == nil || errors.Is(err, errClosed) || pause > maxPause {
			return err
		}
		c.log.Warn("connect to monitor; it is tried again", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// Run keeps the client connected: when the connection ends it connects again,
// and starts another monitor if that one is gone. It returns when ctx ends or
// the client is closed, and then returns nil.
func (c *Client) Run(ctx context.Context) error {
	for {
		c.mu.Lock()
		s, closed := c.session, c.closed
		changed := c.changed
		c.mu.Unlock()
		if closed {
			return nil
		}
		if s == nil {
			if err := c.reconnect(ctx); err != nil {
				return err
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

const (
	minPause = 10 * time.Millisecond
	maxPause = 2 * time.Second
	// connectTime bounds one attempt.
	connectTime = 30 * time.Second
)

func (c *Client) reconnect(ctx context.Context) error {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		attempt, cancel := context.WithTimeout(ctx, connectTime)
		err := c.connect(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errClosed) {
			return nil
		}
		c.log.Error("connect to monitor", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close ends the connection and drops the references to the containers. They
// and the monitor go on.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	s := c.session
	c.session = nil
	c.notify()
	all := c.kept
	c.kept = map[string]*kept{}
	c.mu.Unlock()
	c.exits.kick()
	if s != nil {
		s.conn.Close()
		<-s.done
	}
	for _, k := range all {
		k.close()
	}
	return nil
}

var errClosed = fmt.Errorf("monitor client is closed: %w", errdefs.ErrFailedPrecondition)

// notify wakes those that wait for a session; mu is held.
func (c *Client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// connect makes a session and hands over what the monitor lacks.
func (c *Client) connect(ctx context.Context) error {
	c.connecting.Lock()
	defer c.connecting.Unlock()
	c.mu.Lock()
	done, closed := c.session != nil, c.closed
	c.mu.Unlock()
	if closed {
		return errClosed
	}
	if done {
		return nil
	}
	if err := c.makeDir(); err != nil {
		return err
	}
	s, err := c.dial(ctx)
	if err != nil {
		return fmt.Errorf("connect to monitor: %w", err)
	}
	if err := c.handOver(ctx, s); err != nil {
		s.conn.Close()
		<-s.done
		return fmt.Errorf("connect to monitor: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		s.conn.Close()
		return errClosed
	}
	if s.ended {
		return fmt.Errorf("connect to monitor: connection ended: %w", errdefs.ErrUnavailable)
	}
	c.session = s
	c.notify()
	return nil
}

func (c *Client) makeDir() error {
	if err := os.MkdirAll(filepath.Dir(c.options.Dir), 0o711); err != nil {
		return fmt.Errorf("make directory of monitor: %w", err)
	}
	if err := os.MkdirAll(c.options.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory of monitor: %w", err)
	}
	if err := os.Chmod(c.options.Dir, 0o700); err != nil {
		return fmt.Errorf("restrict directory of monitor: %w", err)
	}
	return nil
}

// dial connects to a monitor that speaks our version of the protocol.
func (c *Client) dial(ctx context.Context) (*session, error) {
	for tries := 0; ; tries++ {
		conn, err := c.dialOrStart(ctx)
		if err != nil {
			return nil, err
		}
		if err := conn.CheckPeer(); err != nil {
			conn.Close()
			return nil, err
		}
		s := newSession(c, conn)
		go s.receive()
		var info protocol.Info
		if err := s.callJSON(ctx, protocol.MethodHello, protocol.Hello{Version: protocol.Version}, &info); err != nil {
			conn.Close()
			<-s.done
			return nil, fmt.Errorf("greet it: %w", err)
		}
		if info.Version == protocol.Version {
			return s, nil
		}
		c.log.Info("upgrade monitor of another protocol version", "version", info.Version, "want", protocol.Version)
		err = s.callJSON(ctx, protocol.MethodUpgrade, protocol.Upgrade{Binary: c.options.Binary}, nil)
		conn.Close()
		<-s.done
		if err != nil {
			return nil, fmt.Errorf("monitor speaks version %d of the protocol, not %d: %w", info.Version, protocol.Version, err)
		}
		if tries > 0 {
			return nil, fmt.Errorf("monitor speaks version %d of the protocol, not %d, after an upgrade", info.Version, protocol.Version)
		}
	}
}

// handOver gives the monitor the descriptors that it lacks, and takes those
// that this client lacks. At the end the monitor tells exits to this client.
func (c *Client) handOver(ctx context.Context, s *session) error {
	var list protocol.List
	if err := s.callJSON(ctx, protocol.MethodList, struct{}{}, &list); err != nil {
		return fmt.Errorf("list its containers: %w", err)
	}
	known := map[string]bool{}
	for _, entry := range list.Containers {
		known[entry.ID] = true
		if err := c.handOverOne(ctx, s, entry); err != nil {
			return fmt.Errorf("hand over container %q: %w", entry.ID, err)
		}
	}
	c.forgetOthers(known)
	hello := protocol.Hello{Version: protocol.Version, Own: true}
	if err := s.callJSON(ctx, protocol.MethodHello, hello, nil); err != nil {
		return fmt.Errorf("own its containers: %w", err)
	}
	return nil
}

func (c *Client) handOverOne(ctx context.Context, s *session, entry protocol.Container) error {
	c.mu.Lock()
	k := c.kept[entry.ID]
	c.mu.Unlock()
	switch {
	case k != nil && entry.Lost:
		fds := k.list()
		frame, err := s.call(ctx, protocol.MethodAdopt, protocol.Adopt{ID: entry.ID, FDs: k.has}, fds, nil)
		if frame != nil {
			frame.CloseFDs()
		}
		return err
	case k == nil && entry.Exit == nil:
		frame, err := s.call(ctx, protocol.MethodFetch, protocol.Named{ID: entry.ID}, nil, nil)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		var started protocol.Started
		return c.keep(entry.ID, frame, &started)
	}
	return nil
}
