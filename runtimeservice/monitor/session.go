package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// session is one connection and the calls under way on it.
type session struct {
	client *Client
	conn   *protocol.Conn
	ended  bool // guarded by the client's mu
	// done is closed when the connection has ended and every call has its
	// error.
	done chan struct{}

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]*call
	// err is set when the connection has ended; then there are no new calls.
	err error
}

// call is a request that waits for its answer.
type call struct {
	result chan outcome
	// late gets an answer that nobody waits for any more.
	late func(*protocol.Frame)
	left bool
}

type outcome struct {
	frame *protocol.Frame
	err   error
}

// errLost is the error of calls whose connection ended before the answer; what
// they asked for may be done or not. errAgain is that of calls that the monitor
// has not looked at.
var (
	errLost  = fmt.Errorf("connection to monitor ended: %w", errdefs.ErrUnavailable)
	errAgain = fmt.Errorf("monitor is replaced: %w", errdefs.ErrUnavailable)
)

func newSession(c *Client, conn *protocol.Conn) *session {
	return &session{client: c, conn: conn, done: make(chan struct{}), pending: map[uint64]*call{}}
}

// call sends a request and waits for the answer. When ctx ends first, the answer
// goes to late, which may be nil.
func (s *session) call(ctx context.Context, method protocol.Method, body any, fds []int, late func(*protocol.Frame)) (*protocol.Frame, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	c := &call{result: make(chan outcome, 1), late: late}
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return nil, errAgain
	}
	s.lastID++
	id := s.lastID
	s.pending[id] = c
	// Under the lock, so that requests go out in the order of their numbers:
	// the monitor names the last it has taken.
	err = s.conn.Send(protocol.Frame{Kind: protocol.FrameRequest, Method: method, ID: id, Body: data, FDs: fds})
	s.mu.Unlock()
	if err != nil && errdefs.IsInvalidArgument(err) {
		s.mu.Lock()
		delete(s.pending, id)
		s.mu.Unlock()
		return nil, err
	}
	select {
	case o := <-c.result:
		return o.frame, o.err
	case <-ctx.Done():
		s.mu.Lock()
		c.left = true
		s.mu.Unlock()
		select {
		case o := <-c.result: // it came meanwhile
			return o.frame, o.err
		default:
			return nil, ctx.Err()
		}
	}
}

// callJSON is call for answers without descriptors.
func (s *session) callJSON(ctx context.Context, method protocol.Method, body, answer any) error {
	frame, err := s.call(ctx, method, body, nil, nil)
	if err != nil {
		return err
	}
	defer frame.CloseFDs()
	if answer == nil {
		return nil
	}
	return frame.Decode(answer)
}

// receive handles what the monitor sends until the connection ends.
func (s *session) receive() {
	defer close(s.done)
	goneAway := false
	var last uint64
	for {
		frame, err := s.conn.Receive()
		if err != nil {
			s.end(err, goneAway, last)
			return
		}
		switch frame.Kind {
		case protocol.FrameResponse, protocol.FrameError:
			s.answered(frame)
			continue
		case protocol.FrameExit:
			var exit protocol.Exit
			if frame.Decode(&exit) == nil {
				s.client.exits.push(exit)
			}
		case protocol.FrameStdinClosed:
			var n protocol.Named
			if frame.Decode(&n) == nil {
				s.client.forgetStdin(n.ID)
			}
		case protocol.FrameGoAway:
			var g protocol.GoAway
			if frame.Decode(&g) == nil {
				goneAway, last = true, g.LastID
			}
		}
		frame.CloseFDs()
	}
}

func (s *session) answered(frame *protocol.Frame) {
	s.mu.Lock()
	c := s.pending[frame.ID]
	delete(s.pending, frame.ID)
	left := c != nil && c.left
	if c != nil && !left {
		c.result <- result(frame)
	}
	s.mu.Unlock()
	switch {
	case c == nil:
		frame.CloseFDs()
	case left && c.late != nil && frame.Kind == protocol.FrameResponse:
		c.late(frame)
	case left:
		frame.CloseFDs()
	}
}

func result(frame *protocol.Frame) outcome {
	if frame.Kind == protocol.FrameResponse {
		return outcome{frame: frame}
	}
	frame.CloseFDs()
	var e protocol.Error
	if err := frame.Decode(&e); err != nil {
		return outcome{err: err}
	}
	return outcome{err: e.Err()}
}

// end gives every call that is left its error.
func (s *session) end(cause error, goneAway bool, last uint64) {
	s.conn.Close()
	s.mu.Lock()
	s.err = fmt.Errorf("%w: %w", errLost, cause)
	for id, c := range s.pending {
		err := s.err
		if goneAway && id > last {
			err = errAgain
		}
		c.result <- outcome{err: err}
	}
	s.pending = nil
	s.mu.Unlock()
	s.client.lost(s)
}

// lost removes a session that has ended.
func (c *Client) lost(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.ended = true
	if c.session == s {
		c.session = nil
		c.notify()
	}
}

// current returns the session, and waits for one while there is none.
func (c *Client) current(ctx context.Context) (*session, error) {
	for {
		c.mu.Lock()
		s, closed, changed := c.session, c.closed, c.changed
		c.mu.Unlock()
		if closed {
			return nil, errClosed
		}
		if s != nil {
			return s, nil
		}
		waited := operation.Wait(ctx, func() string { return "berth-monitor, which is not connected" })
		select {
		case <-changed:
			waited()
		case <-ctx.Done():
			waited()
			return nil, fmt.Errorf("wait for monitor: %w", ctx.Err())
		}
	}
}

// do is call on the current session. A request that the monitor has not looked
// at is sent again to the next one, and so is one that may be repeated.
func (c *Client) do(ctx context.Context, method protocol.Method, body any, fds []int, late func(*protocol.Frame)) (_ *protocol.Frame, err error) {
	ctx, end := operation.Stage(ctx, "monitor "+method.String())
	defer func() { end(err) }()
	for {
		s, err := c.current(ctx)
		if err != nil {
			return nil, err
		}
		frame, err := s.call(ctx, method, body, fds, late)
		if errors.Is(err, errAgain) || errors.Is(err, errLost) && repeatable(method) {
			select {
			case <-s.done:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return frame, err
	}
}

// repeatable tells which requests do no harm when made twice.
func repeatable(m protocol.Method) bool {
	switch m {
	case protocol.MethodExec, protocol.MethodAttach, protocol.MethodSignal, protocol.MethodUpgrade,
		protocol.MethodFreeze, protocol.MethodDump, protocol.MethodThaw:
		return false
	}
	return true
}

// doJSON is do for answers without descriptors.
func (c *Client) doJSON(ctx context.Context, method protocol.Method, body, answer any) error {
	frame, err := c.do(ctx, method, body, nil, nil)
	if err != nil {
		return err
	}
	defer frame.CloseFDs()
	if answer == nil {
		return nil
	}
	return frame.Decode(answer)
}
