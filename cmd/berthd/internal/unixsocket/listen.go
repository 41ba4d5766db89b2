// Package unixsocket listens on a Unix socket that may have been left by a
// daemon that was killed, but not on one that is in use.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Mode of the socket: its owner and its group may connect.
const Mode = 0o660

// probeTimeout bounds the question whether someone listens; the kernel answers
// it without the other process.
const probeTimeout = 2 * time.Second

// Listen makes the socket, and the directory that it is in if need be. A socket
// on which nobody listens any more is replaced; one on which somebody listens,
// and anything that is not a socket, is left alone and is an error.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of socket %q: %w", path, err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// The mode is set before there is a file: bind(2) takes it from the socket,
	// less the umask, so that nobody can connect in between.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), Mode) }), err)
	}}
	listener, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on socket %q: %w", path, errors.Unwrap(err))
	}
	if err := os.Chmod(path, Mode); err != nil { // what the umask took away
		listener.Close()
		return nil, fmt.Errorf("set the mode of socket %q: %w", path, err)
	}
	return listener, nil
}

// removeStale makes room for a new socket.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket %q: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%q is there and is not a socket", path)
	}
	dialer := net.Dialer{Timeout: probeTimeout}
	conn, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		defer conn.Close()
		return fmt.Errorf("socket %q is in use%s", path, peer(conn.(*net.UnixConn)))
	case errors.Is(err, unix.ECONNREFUSED):
		// Nobody listens.
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default: // a full queue of connections, a datagram socket
		return fmt.Errorf("socket %q may be in use: %w", path, errors.Unwrap(err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket %q: %w", path, err)
	}
	return nil
}

// peer names the process that listens at the other end, as far as it can be
// known.
func peer(conn *net.UnixConn) string {
	raw, err := conn.SyscallConn()
	if err != nil {
		return ""
	}
	var cred *unix.Ucred
	raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || cred == nil || cred.Pid == 0 {
		return ""
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.Pid))
	if err != nil {
		return fmt.Sprintf(" by PID %d", cred.Pid)
	}
	return fmt.Sprintf(" by %s with PID %d", strings.TrimSpace(string(name)), cred.Pid)
}
