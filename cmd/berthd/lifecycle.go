package main

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/berth-cri/berth/config"
)

// A serverFunc serves the socket until ctx ends and then lets the calls that are under
// way finish, within bounds.
type serverFunc func(ctx context.Context, listener net.Listener) error

// Serve runs the server until ctx ends. It tells the service manager about all of it,
// sends signs of life while the daemon is healthy, and reloads the configuration at
// SIGHUP. When it returns no call is served any more; nil says that it was asked to end.
func (s *surface) Serve(ctx context.Context, server serverFunc) error {
	if err := s.checkReload(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server(ctx, s.listener) }()
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
	case err := <-ended:
		if ctx.Err() == nil {
			return fmt.Errorf("serve %q: ended early: %w", s.cfg.Address, err)
		}
		return err
	case <-ctx.Done():
	}
	supervision.Wait() // a reload's end must not be told after the stop
	s.Logger.Info("stopping; pods stay", "cause", context.Cause(ctx))
	s.Health.SetServing(false)
	s.notified("stopping", s.notifier.Stopping())
	return <-ended
}

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
	for _, look := range s.hangups {
		look()
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
