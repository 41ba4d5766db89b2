// Package streams connects a person's terminal, or a pipe, to the exec, attach
// and port-forward streams that CRI hands out as URLs.
package streams

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	remotecommandconsts "k8s.io/apimachinery/pkg/util/remotecommand"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// Target asks the runtime for the URL of a stream. Each URL serves one
// connection, so every try needs one of its own.
type Target func(ctx context.Context) (string, error)

// Stdio is what is connected to a process. With TTY, Err is unused.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
	TTY      bool
	Resize   remotecommand.TerminalSizeQueue
}

// ExitError is the exit code of a process that did not end with 0.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// Run connects stdio until the process ends, the stream breaks or ctx ends. It
// returns *ExitError when the process told its exit code.
func Run(ctx context.Context, target Target, stdio Stdio) error {
	opts := remotecommand.StreamOptions{
		Stdin: stdio.In, Stdout: stdio.Out, Stderr: stdio.Err,
		Tty: stdio.TTY, TerminalSizeQueue: stdio.Resize,
	}
	if stdio.TTY {
		opts.Stderr = nil
	}
	dial := websocket
	if stdio.In != nil && !stdio.TTY {
		// The end of the input has to reach the process. WebSocket can say
		// it only in version 5 of the protocol, which the streaming servers
		// of runtimes do not speak; SPDY always could.
		dial = spdy
	}
	err := connect(ctx, target, dial, opts)
	if httpstream.IsUpgradeFailure(err) {
		err = connect(ctx, target, spdy, opts)
	}
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		return &ExitError{Code: exit.Code}
	}
	return err
}

type dialFunc func(*restclient.Config, *url.URL) (remotecommand.Executor, error)

func connect(ctx context.Context, target Target, dial dialFunc, opts remotecommand.StreamOptions) error {
	u, err := resolve(ctx, target)
	if err != nil {
		return err
	}
	executor, err := dial(config(), u)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", u.Host, err)
	}
	return executor.StreamWithContext(ctx, opts)
}

func resolve(ctx context.Context, target Target) (*url.URL, error) {
	address, err := target(ctx)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("read streaming URL: %w", err)
	}
	return u, nil
}

// config never uses a proxy: the streaming server is on this node.
func config() *restclient.Config {
	return &restclient.Config{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
}

func websocket(c *restclient.Config, u *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutorForProtocols(c, http.MethodGet, u.String(),
		remotecommandconsts.StreamProtocolV5Name, remotecommandconsts.StreamProtocolV4Name)
}

func spdy(c *restclient.Config, u *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewSPDYExecutor(c, http.MethodPost, u)
}
