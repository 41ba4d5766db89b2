package streams

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	spdytransport "k8s.io/client-go/transport/spdy"
)

// Forward listens on address and passes each connection to a port of the pod
// until ctx ends. ports are LOCAL:REMOTE; a local port of 0 is any free one. It
// prints where it listens to out and errors of single connections to errOut.
func Forward(ctx context.Context, target Target, address string, ports []string, out, errOut io.Writer) error {
	dialer := &forwardDialer{ctx: ctx, target: target}
	f, err := portforward.NewOnAddressesWithContext(ctx, dialer, []string{address}, ports, make(chan struct{}), out, errOut)
	if err != nil {
		return fmt.Errorf("forward ports: %w", err)
	}
	err = f.ForwardPorts()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("forward ports: %w", err)
	}
	return nil
}

// forwardDialer connects with SPDY, and with SPDY inside WebSocket where that is
// refused: streaming servers of runtimes know only the former today, an API
// server in between may know only the latter.
type forwardDialer struct {
	ctx    context.Context
	target Target
}

func (d *forwardDialer) Dial(protocols ...string) (httpstream.Connection, string, error) {
	conn, protocol, err := d.dialSPDY(protocols)
	if httpstream.IsUpgradeFailure(err) {
		return d.dialWebSocket(protocols)
	}
	return conn, protocol, err
}

func (d *forwardDialer) dialSPDY(protocols []string) (httpstream.Connection, string, error) {
	u, err := resolve(d.ctx, d.target)
	if err != nil {
		return nil, "", err
	}
	transport, upgrader, err := spdytransport.RoundTripperFor(config())
	if err != nil {
		return nil, "", err
	}
	return spdytransport.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u).Dial(protocols...)
}

func (d *forwardDialer) dialWebSocket(protocols []string) (httpstream.Connection, string, error) {
	u, err := resolve(d.ctx, d.target)
	if err != nil {
		return nil, "", err
	}
	dialer, err := portforward.NewSPDYOverWebsocketDialer(u, config())
	if err != nil {
		return nil, "", err
	}
	return dialer.Dial(protocols...)
}
