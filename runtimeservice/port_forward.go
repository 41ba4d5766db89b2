package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/berth-cri/berth/runtimeservice/namespaces"
)

// PortForward connects the stream to a TCP port on the loopback interface of a
// ready sandbox, 127.0.0.1 first and ::1 then, until either side ends it. A pod
// on the node's network has the node's loopback interface.
func (s *sessions) PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error {
	sb, err := s.sandboxes.find(sandboxID)
	if err != nil {
		return err
	}
	aboutSandbox(ctx, sb)
	if err := sb.requireReady(); err != nil {
		return err
	}
	if port < 1 || port > maxPort {
		return invalid("port", "%d is not a port", port)
	}
	conn, err := dialPod(ctx, sb, uint16(port))
	if err != nil {
		return fmt.Errorf("forward port %d of sandbox %s: %w", port, sb.id, err)
	}
	defer conn.Close()
	return forward(ctx, conn, stream)
}

func dialPod(ctx context.Context, sb *sandbox, port uint16) (net.Conn, error) {
	if path := sb.rec.Load().Namespaces[string(namespaces.Network)]; path != "" {
		return namespaces.DialLoopback(ctx, path, port)
	}
	var (
		dialer net.Dialer
		errs   []error
	)
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// forward copies both ways until the pod has said its last, or ctx ends. A
// client that has said his last still gets the answer.
func forward(ctx context.Context, conn net.Conn, stream io.ReadWriter) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	go func() {
		_, _ = io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err := io.Copy(stream, conn)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// ResolveSandbox returns the whole ID of a sandbox that ports can be forwarded
// to now: ErrNotFound or ErrFailedPrecondition otherwise.
func (s *sessions) ResolveSandbox(_ context.Context, id string) (string, error) {
	sb, err := s.sandboxes.find(id)
	if err != nil {
		return "", err
	}
	return sb.id, sb.requireReady()
}

// ResolveContainer returns the whole ID of a container that takes streams now:
// ErrNotFound or ErrFailedPrecondition otherwise.
func (s *sessions) ResolveContainer(_ context.Context, id string) (string, error) {
	c, err := s.containers.find(id)
	if err != nil {
		return "", err
	}
	return c.id, c.requireRunning()
}
