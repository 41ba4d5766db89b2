package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/cmd/berthd/internal/monitoring"
	"github.com/berth-cri/berth/cmd/berthd/internal/systemd"
	"github.com/berth-cri/berth/cmd/berthd/internal/unixsocket"
	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/operation"
)

// runFunc does the daemon's work in the surroundings that serve has set up,
// until ctx ends. It calls surface.Serve once.
type runFunc func(ctx context.Context, cfg config.Config, s *surface) error

// serve sets up what a daemon has around it, in this order: configuration, log,
// directories and their locks, socket, metrics; then it runs the daemon. What
// the operator got wrong is thereby an error before anything is started.
func serve(ctx context.Context, flags *flags, run runFunc) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	// A log whose reader has gone must not kill the daemon. To ignore the signal
	// instead would be inherited by every program that is started from here.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal acts at once

	loaded, err := flags.load()
	if err != nil {
		return err
	}
	cfg := loaded.Config
	log, level := newLogger(os.Stderr, cfg.Log)
	notifier, err := systemd.FromEnvironment()
	if err != nil {
		return err
	}
	release, err := takeDirectories(cfg)
	if err != nil {
		return err
	}
	defer release()
	listener, err := unixsocket.Listen(ctx, cfg.Address)
	if err != nil {
		return err
	}
	defer listener.Close()

	operations := &operation.Registry{}
	s := &surface{
		Logger:     log,
		Registry:   newRegistry(operations),
		Health:     &monitoring.Health{},
		Operations: operations,
		cfg:        cfg,
		flags:      flags,
		hangup:     hangup,
		listener:   listener,
		notifier:   notifier,
		live:       map[string]func(config.Config){},
	}
	s.OnReload("log.level", func(c config.Config) { level.Set(logLevel(c.Log.Level)) })
	log.Info("starting", "version", version, "pid", os.Getpid(), "root", cfg.Root, "state", cfg.State, "configuration", loaded.Files)
	return runMonitored(ctx, s, run)
}

// runMonitored runs the daemon and, if it has an address, the metrics server
// beside it, which answers from the first to the last moment.
func runMonitored(ctx context.Context, s *surface, run runFunc) error {
	if s.cfg.Metrics.Address == "" {
		return run(ctx, s.cfg, s)
	}
	server, err := monitoring.Listen(ctx, s.cfg.Metrics.Address, monitoring.Options{
		Metrics: s.Registry, Health: s.Health, Operations: s.Operations, Pprof: s.cfg.Metrics.Pprof, Logger: s.Logger,
	})
	if err != nil {
		return err
	}
	s.Logger.Info("serving metrics", "address", server.Addr().String())
	monitored, stopMonitoring := context.WithCancel(context.WithoutCancel(ctx))
	defer stopMonitoring()
	g, working := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(monitored) })
	g.Go(func() error {
		defer stopMonitoring()
		return run(working, s.cfg, s)
	})
	return g.Wait()
}

func newRegistry(operations *operation.Registry) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "berth_build_info",
		Help:        "Always 1; the label tells the daemon's version.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	r.MustRegister(info, monitoring.CollectOperations(operations), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// A surface is what the operator sees of a running daemon: log, metrics, health,
// reload, and the life of the process as its service manager follows it. The
// exported fields are for the daemon's parts to use from the beginning on; its
// lifecycle is OnReload any number of times, then Serve once.
type surface struct {
	Logger   *slog.Logger
	Registry *prometheus.Registry
	// Health decides about /healthz and the watchdog.
	Health *monitoring.Health
	// Operations lists what the daemon does.
	Operations *operation.Registry

	cfg      config.Config
	flags    *flags
	hangup   <-chan os.Signal
	listener net.Listener
	notifier *systemd.Notifier
	live     map[string]func(config.Config)
	// hangups are called at each reload, after what live has taken over.
	hangups []func()
}

// OnReload says who takes over a key that the configuration marks as live; it is
// called with the whole new configuration when that key has changed. The calls
// come one after the other, from the first moment of Serve to its last.
func (s *surface) OnReload(key string, apply func(config.Config)) {
	s.live[key] = apply
}

// OnHangup says who looks again, at every reload, at what the configuration names.
func (s *surface) OnHangup(look func()) { s.hangups = append(s.hangups, look) }

// checkReload finds live keys that nobody takes over.
func (s *surface) checkReload() error {
	for _, k := range config.Keys() {
		if k.Live && s.live[k.Path] == nil {
			return fmt.Errorf("configuration key %s is marked live and nothing takes it over", k.Path)
		}
	}
	return nil
}
