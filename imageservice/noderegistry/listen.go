package noderegistry

import (
	"net"
	"sync"
)

// limitedListener has so many connections at a time. They stay TCP connections, to
// which the kernel can copy a file.
type limitedListener struct {
	*net.TCPListener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limitConnections(l *net.TCPListener, n int) *limitedListener {
	return &limitedListener{TCPListener: l, places: make(chan struct{}, n), closed: make(chan struct{})}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.AcceptTCP()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{TCPConn: conn, places: l.places}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.TCPListener.Close()
}

type limitedConn struct {
	*net.TCPConn
	places chan struct{}
	once   sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() { <-c.places })
	return c.TCPConn.Close()
}
