package streams

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	spdytransport "k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Forwarder passes connections to local ports on to ports of a pod. Each has a
// streaming connection of its own, so one that is refused or stalls is no matter
// to the others, and a restart of the runtime ends only those that are open.
//
// Listen for every port, then Serve.
type Forwarder struct {
	Target Target
	Out    io.Writer // where it listens
	Err    io.Writer // what went wrong with a connection

	ports []forwardedPort
}

type forwardedPort struct {
	listener net.Listener
	remote   uint16
}

// Listen opens a local port; 0 is any free one. The address localhost is that
// of IPv4 and, where the machine has it, of IPv6.
func (f *Forwarder) Listen(address string, local, remote uint16) error {
	first := address
	if address == "localhost" {
		first = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(first, strconv.Itoa(int(local))))
	if err != nil {
		return fmt.Errorf("forward to port %d: %w", remote, err)
	}
	f.ports = append(f.ports, forwardedPort{l, remote})
	if address == "localhost" {
		same := l.Addr().(*net.TCPAddr).Port
		if l, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(same))); err == nil {
			f.ports = append(f.ports, forwardedPort{l, remote})
		}
	}
	return nil
}

// Close closes the local ports; what is open goes on.
func (f *Forwarder) Close() {
	for _, p := range f.ports {
		p.listener.Close()
	}
}

// Serve forwards until ctx ends, and ends all connections then.
func (f *Forwarder) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, f.Close)
	defer stop()
	defer f.Close()
	// A pod that is gone is told now and not at the first connection.
	if _, err := f.Target(ctx); err != nil {
		return fmt.Errorf("forward ports: %w", err)
	}
	var wg sync.WaitGroup
	for _, p := range f.ports {
		fmt.Fprintf(f.Out, "Forwarding from %s -> %d\n", p.listener.Addr(), p.remote)
		wg.Go(func() { f.accept(ctx, p) })
	}
	wg.Wait()
	return nil
}

func (f *Forwarder) accept(ctx context.Context, p forwardedPort) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				fmt.Fprintf(f.Err, "port %d: %v\n", p.remote, err)
			}
			return
		}
		wg.Go(func() {
			if err := f.forward(ctx, conn.(*net.TCPConn), p.remote); err != nil && ctx.Err() == nil {
				fmt.Fprintf(f.Err, "port %d: %v\n", p.remote, err)
			}
		})
	}
}

// forward passes one connection on until one side ends it.
func (f *Forwarder) forward(ctx context.Context, local *net.TCPConn, port uint16) error {
	defer local.Close()
	stream, err := f.dial(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() {
		local.Close()
		stream.Close()
	})
	defer stop()
	failed, data, err := openPort(stream, port)
	if err != nil {
		return err
	}
	told := make(chan error, 1)
	go func() {
		message, err := io.ReadAll(failed)
		if len(message) > 0 {
			err = errors.New(string(message))
		}
		told <- err
	}()
	go func() {
		if _, err := io.Copy(data, local); err != nil {
			// Reset, because a Close would tell the pod that all was sent.
			_ = data.Reset()
			return
		}
		_ = data.Close()
	}()
	if _, err := io.Copy(local, data); err != nil {
		_ = data.Reset()
		return nil // the local side went away, as it may
	}
	_ = local.CloseWrite()
	return <-told
}

// dial opens a streaming connection with SPDY: the streaming servers of
// runtimes forward ports over WebSocket in another way than clients do.
func (f *Forwarder) dial(ctx context.Context) (httpstream.Connection, error) {
	u, err := resolve(ctx, f.Target)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdytransport.RoundTripperFor(config())
	if err != nil {
		return nil, err
	}
	dialer := spdytransport.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", u.Host, err)
	}
	return conn, nil
}

// openPort opens the pair of streams that makes one connection to a port.
func openPort(conn httpstream.Connection, port uint16) (failed, data httpstream.Stream, err error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	if failed, err = conn.CreateStream(headers); err != nil {
		return nil, nil, fmt.Errorf("open the error stream: %w", err)
	}
	// Nothing is written to it.
	_ = failed.Close()
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	if data, err = conn.CreateStream(headers); err != nil {
		return nil, nil, fmt.Errorf("open the data stream: %w", err)
	}
	return failed, data, nil
}
