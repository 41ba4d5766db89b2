package cri

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// connections keeps the connections of the streaming server, because net/http
// forgets one that a protocol took over: it neither closes it when the server
// stops nor notices that the client is gone.
type connections struct {
	mu     sync.Mutex
	open   map[*streamConn]struct{}
	closed bool
}

func newConnections() *connections {
	return &connections{open: map[*streamConn]struct{}{}}
}

// listener wraps l so that the connections it accepts are kept.
func (c *connections) listener(l net.Listener) net.Listener {
	return &keepingListener{l, c}
}

type keepingListener struct {
	net.Listener
	conns *connections
}

func (l *keepingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.conns.keep(conn), nil
}

func (c *connections) keep(conn net.Conn) *streamConn {
	s := &streamConn{Conn: conn, conns: c}
	s.gone, s.leave = context.WithCancel(context.Background())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
	} else {
		c.open[s] = struct{}{}
	}
	return s
}

// streamConnKey is the context key of a request's connection.
type streamConnKey struct{}

// context makes the context of a connection's requests: it ends with it.
func (c *connections) context(ctx context.Context, conn net.Conn) context.Context {
	s, ok := conn.(*streamConn)
	if !ok {
		return ctx
	}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, streamConnKey{}, s))
	context.AfterFunc(s.gone, cancel)
	return ctx
}

// finish closes the connection of a session that ended: a little later, since
// at once could take the last bytes from a client that is still sending.
func (c *connections) finish(ctx context.Context) {
	s, ok := ctx.Value(streamConnKey{}).(*streamConn)
	if !ok {
		return
	}
	linger := time.AfterFunc(lingerTimeout, func() { s.Close() })
	if !s.closedBy(linger) {
		linger.Stop()
	}
}

// leaveAll ends the contexts of all connections.
func (c *connections) leaveAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.open {
		s.leave()
	}
}

// wait returns when no connection is open, or ctx ends.
func (c *connections) wait(ctx context.Context) {
	const interval = 5 * time.Millisecond
	for c.count() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
		}
	}
}

// closeAll closes every connection, and those still to come.
func (c *connections) closeAll() {
	c.mu.Lock()
	c.closed = true
	open := c.open
	c.open = map[*streamConn]struct{}{}
	c.mu.Unlock()
	for s := range open {
		s.Close()
	}
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// streamConn is a connection that tells when its client is gone.
type streamConn struct {
	net.Conn
	conns *connections
	gone  context.Context
	leave context.CancelFunc

	mu     sync.Mutex
	closed bool
	linger *time.Timer
}

// closedBy keeps the timer that will close the connection, so that an earlier
// Close can stop it; false when that has happened.
func (s *streamConn) closedBy(linger *time.Timer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.linger = linger
	}
	return !s.closed
}

// Read ends the connection's context with the first error that is not a
// deadline: whichever protocol runs, somebody reads all the time.
func (s *streamConn) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err != nil {
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			s.leave()
		}
	}
	return n, err
}

// Close closes the connection and ends its context.
func (s *streamConn) Close() error {
	s.leave()
	s.conns.mu.Lock()
	delete(s.conns.open, s)
	s.conns.mu.Unlock()
	s.mu.Lock()
	s.closed = true
	if s.linger != nil {
		s.linger.Stop()
	}
	s.mu.Unlock()
	return s.Conn.Close()
}
