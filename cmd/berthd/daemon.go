package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/berth-cri/berth/cmd/berthd/internal/monitoring"
	"github.com/berth-cri/berth/cni"
	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/cri"
	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice"
	"github.com/berth-cri/berth/imageservice/inflate"
	"github.com/berth-cri/berth/imageservice/projectquota"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/runtimeservice"
	"github.com/berth-cri/berth/runtimeservice/classes"
	"github.com/berth-cri/berth/runtimeservice/handlers"
	"github.com/berth-cri/berth/runtimeservice/hostpath"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// run makes the daemon's parts, in the order in which they need each other, takes up
// what the last run left, and serves until ctx ends. Pods run on.
func run(ctx context.Context, cfg config.Config, s *surface) error {
	began := time.Now()
	trace, err := newTracing(ctx, cfg.Tracing, s)
	if err != nil {
		return err
	}
	defer trace.close()
	klog.SetSlogLogger(slog.New(streamLog{s.Logger.Handler()}))
	systemd, err := systemdCgroups(cfg.Runtime.CgroupDriver, runsSystemd(), isUnified("/sys/fs/cgroup"))
	if err != nil {
		return err
	}
	images, err := newImages(cfg, s)
	if err != nil {
		return err
	}
	s.Registry.MustRegister(newImageMetrics(images))
	networks := newNetworks(cfg, s)
	processes := &processes{}
	plugins := newPlugins(cfg.NRI, s)
	ways := newHandlers(cfg, s)
	runtime, err := newRuntime(cfg, s, systemd, ways, images, networks, asPlugins(plugins), processes)
	if err != nil {
		return err
	}
	if processes.Client, err = newMonitor(cfg, s, runtime.HandleExit); err != nil {
		return err
	}
	defer processes.Close()
	server, err := newServer(cfg, s, systemd, images, runtime, trace)
	if err != nil {
		return err
	}
	disconnect, err := addHealthChecks(cfg, s, processes)
	if err != nil {
		return err
	}
	defer disconnect()
	if err := runtime.Start(ctx); err != nil {
		return fmt.Errorf("take up pods: %w", err)
	}
	stopPlugins, err := startPlugins(plugins, runtime)
	defer stopPlugins()
	if err != nil {
		return err
	}
	serveImages, err := newNodeRegistry(cfg.Images.Serve, images, s)
	if err != nil {
		return err
	}
	s.Logger.Info("took up what was there", "duration", time.Since(began))

	group, working := errgroup.WithContext(ctx)
	group.Go(func() error { return images.Run(working) })
	group.Go(func() error { return serveImages(working) })
	group.Go(func() error { return networks.Run(working) })
	group.Go(func() error { return processes.Run(working) })
	group.Go(func() error { return ways.Run(working) })
	group.Go(func() error { return runtime.Run(working) })
	group.Go(func() error { return s.Serve(working, server.Run) })
	return group.Wait()
}

// newServer serves CRI, and beside it what Berth's own command asks for.
func newServer(cfg config.Config, s *surface, systemd bool, images *imageservice.Service, runtime *runtimeservice.Service, trace traces) (*cri.Server, error) {
	return cri.New(cri.Options{
		Runtime:      runtime,
		Images:       images,
		CgroupDriver: cgroupDriver(systemd),
		Version:      version,
		Streaming: cri.StreamingOptions{
			Address: cfg.Streaming.Address, Port: cfg.Streaming.Port,
			IdleTimeout: cfg.Streaming.IdleTimeout, CreationTimeout: cfg.Streaming.CreationTimeout,
		},
		Services: func(r grpc.ServiceRegistrar) {
			berthapi.RegisterImages(r, &berthapi.Poller{Pulls: pulls(images), Same: sameImage})
			berthapi.RegisterStorage(r, &storage{images: images, containers: runtime, root: cfg.Root})
			berthapi.RegisterTransfers(r, transfers{images})
			berthapi.RegisterContainers(r, containerFiles{runtime, images})
			berthapi.RegisterOperations(r, berthapi.Operations{Registry: s.Operations})
		},
		Logger:      s.Logger,
		Registry:    s.Registry,
		Operations:  s.Operations,
		Stats:       trace.stats,
		ImagePulled: runtime.ImagePulled,
		StopGrace:   cfg.Deadlines.Shutdown,
	})
}

func newImages(cfg config.Config, s *surface) (*imageservice.Service, error) {
	return imageservice.New(imageservice.Options{
		Root:              cfg.Root,
		ImagesDir:         cfg.Images.Dir,
		WritableDir:       cfg.Runtime.WritableDir,
		WritableQuota:     writableQuota(cfg.Runtime),
		State:             cfg.State,
		CertsDirs:         cfg.Images.CertsDirs,
		Platform:          platform(cfg.Images.Platform),
		Pinned:            cfg.Images.Pinned,
		ImportDirs:        cfg.Images.ImportDirs,
		Operations:        s.Operations,
		ParallelLayers:    cfg.Images.ParallelLayers,
		BlobConnections:   cfg.Images.BlobConnections,
		StallTimeout:      cfg.Images.StallTimeout,
		MinProgress:       cfg.Images.MinProgress,
		DockerConfig:      cfg.Images.DockerConfig,
		Inflate:           inflater(cfg.Images.Inflate),
		PolicyFile:        cfg.Images.PolicyFile,
		DecryptionKeysDir: cfg.Images.DecryptionKeysDir,
		DiscardBlobs:      !cfg.Images.KeepBlobs,
		UserAgent:         "berth/" + version,
		Logger:            s.Logger,
	})
}

func writableQuota(cfg config.Runtime) store.Quota {
	return store.Quota{
		Limit:    uint64(cfg.WritableLimit),
		Projects: projectquota.IDs{First: uint32(cfg.ProjectIDs.First), Count: uint32(cfg.ProjectIDs.Count)},
	}
}

// inflater is the decoder that the configuration means.
func inflater(name string) inflate.Mode {
	if name == config.InflateGo {
		return inflate.Go
	}
	return inflate.Auto
}

func newNetworks(cfg config.Config, s *surface) *cni.Networks {
	return cni.New(cni.Options{
		ConfDirs:   cfg.Network.ConfDirs,
		BinDirs:    cfg.Network.BinDirs,
		Template:   cfg.Network.Template,
		StateDir:   filepath.Join(cfg.Root, "cni"),
		Timeout:    cfg.Network.Timeout,
		Operations: s.Operations,
		Logger:     s.Logger,
	})
}

func newMonitor(cfg config.Config, s *surface, onExit func(monitor.Exit)) (*monitor.Client, error) {
	binary, err := monitorBinary(cfg.Runtime.MonitorBinary)
	if err != nil {
		return nil, err
	}
	return monitor.New(monitor.Options{
		Dir:          filepath.Join(cfg.State, "monitor"),
		Binary:       binary,
		CgroupParent: cfg.Runtime.MonitorCgroup,
		Logger:       s.Logger,
		OnExit:       onExit,
	}), nil
}

func newRuntime(cfg config.Config, s *surface, systemd bool, ways *handlers.Set, images *imageservice.Service, networks *cni.Networks, plugins runtimeservice.Plugins, processes *processes) (*runtimeservice.Service, error) {
	host, err := spec.DetectHost()
	if err != nil {
		return nil, fmt.Errorf("find out what the host can do: %w", err)
	}
	binary, err := monitorBinary(cfg.Runtime.MonitorBinary)
	if err != nil {
		return nil, err
	}
	host.Paths = hostpath.New(binary)
	devices, err := newDevices(cfg.Runtime, s.Logger)
	if err != nil {
		return nil, err
	}
	defined, err := classes.New(cfg.Runtime.RdtConfigFile, cfg.Runtime.BlockioConfigFile)
	if err != nil {
		return nil, err
	}
	labels, err := newLabels(cfg.Runtime, s.Logger)
	if err != nil {
		return nil, err
	}
	defaults := specDefaults(cfg.Runtime)
	profiles := newAppArmor(context.Background(), cfg.Runtime, host, &defaults, s.Logger)
	return runtimeservice.New(runtimeservice.Options{
		Root:            cfg.Root,
		WritableDir:     cfg.Runtime.WritableDir,
		State:           cfg.State,
		Images:          images,
		RootFilesystems: images,
		Volumes:         images,
		WritableLayers:  images,
		Devices:         devices,
		AppArmor:        profiles,
		Labels:          labels,
		Classes:         defined,
		Network:         networks,
		Plugins:         plugins,
		Processes:       processes,
		Handlers:        ways,
		Host:            host,
		Defaults:        defaults,
		SystemdCgroup:   systemd,
		Operations:      s.Operations,
		ObserveStart:    monitoring.NewStartStages(s.Registry).Observe,
		Logger:          s.Logger,
	})
}

func cgroupDriver(systemd bool) runtimeapi.CgroupDriver {
	if systemd {
		return runtimeapi.CgroupDriver_SYSTEMD
	}
	return runtimeapi.CgroupDriver_CGROUPFS
}
