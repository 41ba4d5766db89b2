package main

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/berth-cri/berth/cmd/berth/internal/streams"
)

// session says how this terminal is connected to a process.
type session struct {
	stdin      io.Reader // nil: the process gets no input
	tty        bool
	detachKeys []byte
}

// stream connects the terminal to target until the process ends. It returns
// streams.ErrDetached when the person typed the detach keys and
// *streams.ExitError when the process told its exit code.
func (a *app) stream(ctx context.Context, target streams.Target, s session) error {
	return a.streamTo(ctx, a.stdout, target, s)
}

// streamTo is stream with the output going to out.
func (a *app) streamTo(ctx context.Context, out io.Writer, target streams.Target, s session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var detached atomic.Bool
	stdio := streams.Stdio{Out: out, Err: a.stderr, TTY: s.tty}
	if s.stdin != nil {
		stdio.In = &streams.DetachReader{In: s.stdin, Keys: s.detachKeys, Detached: func() {
			detached.Store(true)
			cancel()
		}}
	}
	if s.tty {
		if s.stdin != nil {
			restore, err := streams.MakeRaw(a.stdin)
			if err != nil {
				return err
			}
			defer restore()
		}
		stdio.Resize = streams.NewSizeQueue(ctx, a.stdout)
	}
	err := streams.Run(ctx, target, stdio)
	if detached.Load() {
		return streams.ErrDetached
	}
	return err
}
