package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
)

// defaultStopGrace is how long Run waits for running calls when it is told to stop.
const defaultStopGrace = 10 * time.Second

// Options are what a Server is made of. Runtime and Images are required.
type Options struct {
	Runtime Runtime
	Images  Images
	// CgroupDriver is what RuntimeConfig tells the kubelet.
	CgroupDriver runtimeapi.CgroupDriver
	// Version of the runtime; made semver-compatible where it is not.
	Version   string
	Streaming StreamingOptions
	// Services, if set, registers what is served on the socket beside CRI.
	Services func(grpc.ServiceRegistrar)
	Logger   *slog.Logger
	// Registry takes the metrics of the calls; nil for none.
	Registry prometheus.Registerer
	// Operations lists the calls that run; nil for a list that nobody sees.
	Operations *operation.Registry
	// ImagePulled, if set, is told of each pull for a pod, and how it failed.
	ImagePulled func(pod *runtimeapi.PodSandboxConfig, image string, began time.Time, took time.Duration, failure error)
	// Stats, if set, is told of the calls by gRPC itself: traces begin there.
	Stats stats.Handler
	// StopGrace is how long Run waits for running calls when its context ends.
	StopGrace time.Duration
}

// Server serves both services of CRI.
//
// New makes it, Run serves until its context ends.
type Server struct {
	options   Options
	logger    *slog.Logger
	calls     *callMetrics
	streaming *streamingServer
	runtime   *runtimeServer
	images    *imageServer
	// stopping ends when Run is told to stop, and the streaming calls with it.
	stopping   context.Context
	endStreams context.CancelFunc
}

// New makes a Server and registers its metrics. It neither listens nor starts a
// goroutine.
func New(o Options) (*Server, error) {
	if o.Runtime == nil || o.Images == nil {
		return nil, errors.New("make the CRI server: a runtime and an image service are needed")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Operations == nil {
		o.Operations = &operation.Registry{}
	}
	if o.StopGrace == 0 {
		o.StopGrace = defaultStopGrace
	}
	streaming, err := newStreamingServer(o.Streaming, o.Runtime, o.Operations, o.Logger)
	if err != nil {
		return nil, fmt.Errorf("make the streaming server: %w", err)
	}
	calls, err := newCallMetrics(o.Registry, streaming.sessions.inUse)
	if err != nil {
		return nil, fmt.Errorf("register the metrics of CRI calls: %w", err)
	}
	s := &Server{
		options:   o,
		logger:    o.Logger,
		calls:     calls,
		streaming: streaming,
	}
	s.stopping, s.endStreams = context.WithCancel(context.Background())
	s.runtime = &runtimeServer{
		sandboxHandlers:   &sandboxHandlers{o.Runtime},
		containerHandlers: &containerHandlers{lifecycle: o.Runtime, containers: o.Runtime},
		execHandlers:      &execHandlers{sync: o.Runtime, streams: o.Runtime, containers: o.Runtime, urls: streaming},
		statsHandlers:     &statsHandlers{o.Runtime},
		metricsHandlers:   &metricsHandlers{o.Runtime},
		eventHandlers:     &eventHandlers{o.Runtime},
		nodeHandlers: &nodeHandlers{
			node:         o.Runtime,
			version:      semanticVersion(o.Version),
			cgroupDriver: o.CgroupDriver,
		},
	}
	s.images = &imageServer{images: o.Images, pulled: o.ImagePulled}
	return s, nil
}

// runtimeServer puts the handler families together. The generated
// Unimplemented server is embedded one level deeper, so that a family's method
// hides it.
type runtimeServer struct {
	unimplementedRuntime
	*sandboxHandlers
	*containerHandlers
	*execHandlers
	*statsHandlers
	*metricsHandlers
	*eventHandlers
	*nodeHandlers
}

type unimplementedRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

var (
	_ runtimeapi.RuntimeServiceServer = (*runtimeServer)(nil)
	_ runtimeapi.ImageServiceServer   = (*imageServer)(nil)
)

// Register adds the services to g, which NewGRPCServer made.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	g.RegisterService(strictDecoding(&runtimeapi.RuntimeService_ServiceDesc), s.runtime)
	g.RegisterService(strictDecoding(&runtimeapi.ImageService_ServiceDesc), s.images)
	if s.options.Services != nil {
		s.options.Services(g)
	}
}

// Run serves CRI on l, which it closes, and the streams on their own address,
// until ctx ends. Then it takes no new calls, ends streaming calls, waits up to
// StopGrace for the other calls that run, ends the sessions, and returns nil.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	if err := s.streaming.listen(); err != nil {
		l.Close()
		return err
	}
	g := s.NewGRPCServer()
	s.Register(g)

	failed := make(chan error, 2)
	go func() { failed <- s.streaming.serve() }()
	go func() { failed <- g.Serve(l) }()

	var err error
	running := 2
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	s.endStreams()
	s.stop(g)
	for ; running > 0; running-- {
		err = errors.Join(err, <-failed)
	}
	if err != nil {
		return fmt.Errorf("serve CRI: %w", err)
	}
	return nil
}

// stop ends g gracefully where it can within the grace, then by force.
func (s *Server) stop(g *grpc.Server) {
	force := time.AfterFunc(s.options.StopGrace, func() {
		s.logger.Warn("calls still run at the end of the stop grace", "grace", s.options.StopGrace)
		g.Stop()
	})
	g.GracefulStop()
	force.Stop()
	s.streaming.stop()
}

// StreamingAddress is where the streaming server listens; empty before Run.
func (s *Server) StreamingAddress() string { return s.streaming.address() }
