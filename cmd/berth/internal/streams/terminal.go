package streams

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"k8s.io/client-go/tools/remotecommand"
)

// IsTerminal tells whether v is a file that is a terminal.
func IsTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// MakeRaw passes every key of in's terminal on as it is typed and returns what
// puts the terminal back; without a terminal it does nothing.
func MakeRaw(in io.Reader) (restore func(), err error) {
	if !IsTerminal(in) {
		return func() {}, nil
	}
	fd := int(in.(*os.File).Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	return func() { _ = term.Restore(fd, old) }, nil
}

// SizeQueue reports the size of a terminal, at first and after each change.
type SizeQueue struct {
	fd      int
	changes chan os.Signal
	first   chan struct{}
	ctx     context.Context
}

var _ remotecommand.TerminalSizeQueue = (*SizeQueue)(nil)

// NewSizeQueue watches out's terminal until ctx ends. It returns nil, which is
// no queue, where out is not a terminal.
func NewSizeQueue(ctx context.Context, out io.Writer) remotecommand.TerminalSizeQueue {
	if !IsTerminal(out) {
		return nil
	}
	q := &SizeQueue{
		fd:      int(out.(*os.File).Fd()),
		changes: make(chan os.Signal, 1),
		first:   make(chan struct{}, 1),
		ctx:     ctx,
	}
	q.first <- struct{}{}
	signal.Notify(q.changes, unix.SIGWINCH)
	context.AfterFunc(ctx, func() { signal.Stop(q.changes) })
	return q
}

// Next waits for a change; it returns nil at the end.
func (q *SizeQueue) Next() *remotecommand.TerminalSize {
	select {
	case <-q.ctx.Done():
		return nil
	case <-q.first:
	case <-q.changes:
	}
	width, height, err := term.GetSize(q.fd)
	if err != nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)}
}
