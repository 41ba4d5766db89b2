package nri

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// errServed says that another process has the socket.
var errServed = errors.New("another process serves it")

// claimSocket tells whether plugins can connect to the configured socket. One that
// another process serves (an NRI socket has a well-known path, and a node can have
// two runtimes) is left to it with a warning, as is a path that cannot be used: pods
// do not depend on it.
func (p *Plugins) claimSocket() bool {
	if p.opts.Socket == "" {
		return false
	}
	claim, err := claim(p.opts.Socket)
	if err != nil {
		p.log.Warn("NRI plugins cannot connect to this runtime; those that are installed in its directory still run",
			"socket", p.opts.Socket, "error", err)
		return false
	}
	p.claim = claim
	return true
}

// claim takes the lock of a socket's path, which lasts as long as the file is open,
// and makes sure that nobody without the lock serves it.
func claim(socket string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of socket: %w", err)
	}
	lock, err := os.OpenFile(socket+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errServed
		}
		return nil, fmt.Errorf("lock %q: %w", lock.Name(), err)
	}
	if conn, err := net.Dial("unix", socket); err == nil {
		conn.Close()
		lock.Close()
		return nil, errServed
	}
	return lock, nil
}
