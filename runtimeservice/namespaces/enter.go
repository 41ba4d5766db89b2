package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// EnterNetwork runs fn on a thread of its own inside the network namespace pinned at path.
// Sockets that fn opens stay in that namespace; goroutines that it starts are not in it.
// The error is fn's, or ErrNotFound when there is no namespace at path.
func EnterNetwork(path string, fn func() error) error {
	return onDoomedThread(func() error {
		netns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("network namespace %q: %w", path, errdefs.ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("open network namespace %q: %w", path, err)
		}
		defer unix.Close(netns)
		err = unix.Setns(netns, unix.CLONE_NEWNET)
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("%q is no network namespace: %w", path, errdefs.ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("enter network namespace %q: %w", path, err)
		}
		return fn()
	})
}

// Dial connects to address, a literal IP and port, inside the network namespace pinned at
// path. A name is refused: resolving it would happen outside of the namespace.
func Dial(ctx context.Context, path, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial %q: %w: %w", address, err, errdefs.ErrInvalidArgument)
	}
	var conn net.Conn
	err := EnterNetwork(path, func() (err error) {
		// For a literal address the dialer opens its socket on the calling thread.
		var dialer net.Dialer
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// DialLoopback connects to a TCP port that a container of the pod listens on, on 127.0.0.1
// or, where nothing listens there, on ::1. A failure carries both reasons.
func DialLoopback(ctx context.Context, path string, port uint16) (net.Conn, error) {
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := Dial(ctx, path, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if errdefs.IsNotFound(err) {
			break
		}
	}
	return nil, fmt.Errorf("connect to port %d of the pod: %w", port, errors.Join(errs...))
}
