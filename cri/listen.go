package cri

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// socketProbeTimeout bounds the question whether a socket is in use.
const socketProbeTimeout = time.Second

// Listen opens the Unix socket that CRI is served on, for the owner only. A
// socket that another program serves is errdefs.ErrFailedPrecondition, as is a
// file of another kind; a socket that a dead program left behind is replaced.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of socket %s: %w", path, err)
	}
	if err := replaceable(path); err != nil {
		return nil, err
	}
	// Bound under another name, restricted, then renamed: nobody can connect
	// before the mode is right, and a client finds the old socket or the new one.
	bound := path + ".new"
	if err := os.Remove(bound); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket %s: %w", bound, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: bound, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := publish(bound, path); err != nil {
		l.Close()
		os.Remove(bound)
		return nil, err
	}
	return &socketListener{UnixListener: l, path: path}, nil
}

func publish(bound, path string) error {
	if err := os.Chmod(bound, 0o600); err != nil {
		return fmt.Errorf("restrict socket %s: %w", path, err)
	}
	if err := os.Rename(bound, path); err != nil {
		return fmt.Errorf("put socket %s in place: %w", path, err)
	}
	return nil
}

// replaceable tells whether path is free or a socket that nobody serves.
func replaceable(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket %s: %w", path, err)
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("listen on %s: it exists and is not a socket: %w", path, errdefs.ErrFailedPrecondition)
	}
	conn, err := net.DialTimeout("unix", path, socketProbeTimeout)
	if err == nil {
		conn.Close()
		return fmt.Errorf("listen on socket %s: another program serves it: %w", path, errdefs.ErrFailedPrecondition)
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("listen on socket %s: find out whether it is in use: %w", path, err)
}

// socketListener removes its socket when it is closed.
type socketListener struct {
	*net.UnixListener
	path string
}

func (l *socketListener) Close() error {
	err := l.UnixListener.Close()
	if err == nil {
		os.Remove(l.path)
	}
	return err
}
