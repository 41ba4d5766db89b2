package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"
)

// streamLog is where the streaming libraries log. To them every client that hangs
// up is an error, and with each exec one does: that is for debugging only.
type streamLog struct{ slog.Handler }

func (h streamLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level > slog.LevelDebug && tellsOfHangUp(r) {
		r.Level = slog.LevelDebug
		if !h.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h streamLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return streamLog{h.Handler.WithAttrs(attrs)}
}

func (h streamLog) WithGroup(name string) slog.Handler { return streamLog{h.Handler.WithGroup(name)} }

func tellsOfHangUp(r slog.Record) (is bool) {
	r.Attrs(func(a slog.Attr) bool {
		err, _ := a.Value.Any().(error)
		is = errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
		return !is
	})
	return is
}
