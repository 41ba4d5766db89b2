package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-cri/berth/config"
)

// Serve serves the socket until ctx ends, and then lets the calls that are under
// way finish, for as long as deadlines.shutdown allows. It tells the service
// manager about all of it, sends signs of life while the daemon is healthy, and
// reloads the configuration at SIGHUP.
//
// The server's streaming calls end only if it has endStreams as interceptor.
// When Serve returns no call is served any more; nil says that it was asked to
// end.
func (s *surface) Serve(ctx context.Context, server *grpc.Server) error {
	if err := s.checkReload(); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.listener) }()
	s.Health.SetServing(true)
	s.notified("ready", s.notifier.Ready("serving "+s.cfg.Address))
	s.Logger.Info("serving", "address", s.cfg.Address)

	supervised, cancel := context.WithCancel(ctx)
	var supervision sync.WaitGroup
	supervision.Go(func() { s.notifier.KeepAlive(supervised, s.Logger, s.Health.Check) })
	supervision.Go(func() { s.reloadAtHangup(supervised) })
	defer supervision.Wait()
	defer cancel()

	select {
	case err := <-failed:
		return fmt.Errorf("serve %q: %w", s.cfg.Address, err)
	case <-ctx.Done():
	}
	supervision.Wait() // a reload's end must not be told after the stop
	s.Logger.Info("stopping; pods stay", "cause", context.Cause(ctx))
	s.Health.SetServing(false)
	s.notified("stopping", s.notifier.Stopping())
	drain(server, s.cfg.Deadlines.Shutdown, s.Logger.Warn)
	return nil
}

// drain stops the server, gently for as long as limit.
func drain(server *grpc.Server, limit time.Duration, warn func(string, ...any)) {
	impatient := time.AfterFunc(limit, func() {
		warn("calls are still under way; cutting them off", "after", limit)
		server.Stop()
	})
	defer impatient.Stop()
	server.GracefulStop() // returns after Stop too
}

// endStreams ends the streaming calls when ctx does: they would otherwise go on
// for as long as their clients like, and a graceful stop with them. It is the
// outermost interceptor, so that its error is the one that reaches the client.
func endStreams(ctx context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		call, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		err := handler(srv, endingStream{stream, call})
		if ctx.Err() != nil {
			return status.Error(codes.Unavailable, "berthd is stopping")
		}
		return err
	}
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }

// reloadAtHangup serves SIGHUP until ctx ends; one that came before is served
// first.
func (s *surface) reloadAtHangup(ctx context.Context) {
	running := s.cfg
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.hangup:
			s.notified("reloading", s.notifier.Reloading())
			running = s.reload(running)
			s.notified("ready", s.notifier.Ready("serving "+s.cfg.Address))
		}
	}
}

// reload reads the configuration again and returns the one that is in force from
// now on. One with a mistake changes nothing.
func (s *surface) reload(running config.Config) config.Config {
	loaded, err := s.flags.load()
	if err != nil {
		s.Logger.Error("reload: the configuration has mistakes; the one in force stays", "error", err)
		return running
	}
	change := config.Reload(running, loaded.Config)
	for _, key := range change.Live {
		s.live[key](change.Config)
	}
	s.Logger.Info("reloaded", "changed", change.Live)
	if len(change.Later) > 0 {
		s.Logger.Warn("reload: some changes wait for the next start of berthd", "keys", change.Later)
	}
	return change.Config
}

// notified logs a message to the service manager that did not get through; it is
// no reason to stop working.
func (s *surface) notified(message string, err error) {
	if err != nil {
		s.Logger.Warn("service manager", "message", message, "error", err)
	}
}
