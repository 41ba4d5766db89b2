package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/berth-cri/berth/operation"
)

// attachment is the streams that a session has.
type attachment struct{ stdin, stdout, stderr bool }

func (a attachment) options(tty bool) *remotecommand.Options {
	return &remotecommand.Options{Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr, TTY: tty}
}

// only passes on the streams that were asked for. Over WebSocket the library
// makes all three, and one that nobody feeds must not look like an open stdin.
func (a attachment) only(in io.Reader, out, errw io.WriteCloser) (io.Reader, io.WriteCloser, io.WriteCloser) {
	if !a.stdin {
		in = nil
	}
	if !a.stdout {
		out = nil
	}
	if !a.stderr {
		errw = nil
	}
	return in, out, errw
}

// The sessions adapt Streams to what the protocols of cri-streaming call. They
// run on goroutines of their own, so each recovers from panics.
var (
	_ remotecommand.Executor    = (*execSession)(nil)
	_ remotecommand.Attacher    = (*attachSession)(nil)
	_ portforward.PortForwarder = (*portForwardSession)(nil)
)

type execSession struct {
	*streamingServer
	attached attachment
}

func (s *execSession) ExecInContainer(ctx context.Context, _, _, id string, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) (err error) {
	ctx, end := s.operate(ctx, "ExecSession", operation.Subject{ContainerID: id})
	defer end(&err)
	defer s.finishSession(ctx, "Exec", "container_id", id, time.Now(), &err)
	in, out, errw = s.attached.only(in, out, errw)
	return exitError(s.streams.Exec(ctx, id, cmd, in, out, errw, tty, resize))
}

type attachSession struct {
	*streamingServer
	attached attachment
}

func (s *attachSession) AttachContainer(ctx context.Context, _, _, id string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) (err error) {
	ctx, end := s.operate(ctx, "AttachSession", operation.Subject{ContainerID: id})
	defer end(&err)
	defer s.finishSession(ctx, "Attach", "container_id", id, time.Now(), &err)
	in, out, errw = s.attached.only(in, out, errw)
	return s.streams.Attach(ctx, id, in, out, errw, tty, resize)
}

// portForwardSession has the context of its request: the library passes one
// that never ends.
type portForwardSession struct {
	*streamingServer
	ctx context.Context
}

func (s *portForwardSession) PortForward(_ context.Context, id, _ string, port int32, stream io.ReadWriteCloser) (err error) {
	ctx, end := s.operate(s.ctx, "PortForwardSession", operation.Subject{SandboxID: id})
	defer end(&err)
	defer s.finishSession(ctx, "PortForward", "sandbox_id", id, time.Now(), &err)
	return s.streams.PortForward(ctx, id, port, stream)
}

// operate lists a session among the operations until end is called. It lasts as long
// as its client likes.
func (s *streamingServer) operate(ctx context.Context, method string, about operation.Subject) (inner context.Context, end func(*error)) {
	inner, op := s.running.Begin(ctx, method, about, operation.Options{Standing: true})
	return inner, func(err *error) { op.End(*err) }
}

// finishSession writes the line of a session that ended. Deferred, it turns a
// panic into an error.
func (s *streamingServer) finishSession(ctx context.Context, kind, key, id string, start time.Time, err *error) {
	if p := recover(); p != nil {
		s.logger.ErrorContext(ctx, "panic in a session", "kind", kind, key, id,
			"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = fmt.Errorf("serve %s: panic: %v: %w", kind, p, errdefs.ErrInternal)
	}
	attrs := []any{"kind", kind, key, id, "duration", time.Since(start)}
	if *err != nil {
		attrs = append(attrs, "error", (*err).Error())
	}
	s.logger.InfoContext(ctx, "streaming session ended", attrs...)
}

// exitError makes an error with an exit status one that the library recognises
// by its type; it does not unwrap.
func exitError(err error) error {
	var exited interface{ ExitStatus() int }
	if errors.As(err, &exited) {
		return utilexec.CodeExitError{Err: err, Code: exited.ExitStatus()}
	}
	return err
}
