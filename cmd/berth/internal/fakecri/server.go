// Package fakecri is a container runtime for tests: it answers CRI on a Unix
// socket, runs Go functions in place of programs, writes logs in the CRI format
// and serves streams through k8s.io/cri-streaming.
package fakecri

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/berth-cri/berth/cri/berthapi"
)

// Options say how the runtime behaves.
type Options struct {
	// Program is what containers and exec run; its result is the exit code.
	Program func(*Process) int
	// AttachCreated lets attach wait for a container that has not started, as
	// Berth does; without it attach refuses, as others do.
	AttachCreated bool
	// RefuseUpgrade refuses streaming connections by the name of their
	// protocol, "websocket" or "SPDY/3.1".
	RefuseUpgrade string
	// Progress is served as berth.v1.Images if it is set.
	Progress berthapi.ImagesServer
	// Operations is served as berth.v1.Operations if it is set.
	Operations berthapi.OperationsServer
	// Storage is served as berth.v1.Storage if it is set.
	Storage berthapi.StorageServer
	// Containers is served as berth.v1.Containers if it is set.
	Containers berthapi.ContainersServer
}

// Server is a runtime that a test can look into.
type Server struct {
	Address string // of the socket, as for --address
	Socket  string

	options Options
	stream  streaming.Server

	mu         sync.Mutex
	next       int
	pods       map[string]*runtimeapi.PodSandboxStatus
	podConfigs map[string]*runtimeapi.PodSandboxConfig
	containers map[string]*container
	images     []*runtimeapi.Image
	registry   map[string]*runtimeapi.Image
	failures   map[string]error
	requests   []Request
	listeners  map[chan *runtimeapi.ContainerEventResponse]bool
	stats      []*runtimeapi.ContainerStats
	podStats   []*runtimeapi.PodSandboxStats
	hold       <-chan struct{}
}

// Request is a call that was made.
type Request struct {
	Method  string // without the service
	Message proto.Message
}

// Start serves until the test ends.
func Start(t *testing.T, options Options) *Server {
	t.Helper()
	// Not t.TempDir: the path of a socket may have 107 bytes only.
	dir, err := os.MkdirTemp("", "fakecri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{
		Socket:     filepath.Join(dir, "cri.sock"),
		options:    options,
		pods:       map[string]*runtimeapi.PodSandboxStatus{},
		podConfigs: map[string]*runtimeapi.PodSandboxConfig{},
		containers: map[string]*container{},
		registry:   map[string]*runtimeapi.Image{},
		failures:   map[string]error{},
		listeners:  map[chan *runtimeapi.ContainerEventResponse]bool{},
	}
	s.Address = "unix://" + s.Socket
	s.serveStreams(t)
	l, err := net.Listen("unix", s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	runtimeapi.RegisterRuntimeServiceServer(g, &runtimeService{Server: s})
	runtimeapi.RegisterImageServiceServer(g, &imageService{Server: s})
	if options.Storage != nil {
		berthapi.RegisterStorage(g, options.Storage)
	}
	if options.Containers != nil {
		berthapi.RegisterContainers(g, options.Containers)
	}
	if options.Operations != nil {
		berthapi.RegisterOperations(g, options.Operations)
	}
	if options.Progress != nil {
		berthapi.RegisterImages(g, options.Progress)
	}
	go g.Serve(l)
	t.Cleanup(g.Stop)
	t.Cleanup(s.killAll)
	return s
}

func (s *Server) serveStreams(t *testing.T) {
	t.Helper()
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.EqualFold(r.Header.Get("Upgrade"), s.options.RefuseUpgrade) && s.options.RefuseUpgrade != "" {
			http.Error(w, "this protocol is refused", http.StatusBadRequest)
			return
		}
		s.stream.ServeHTTP(w, r)
	}))
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Scheme: "http", Host: web.Listener.Addr().String(), Path: "/"}
	var err error
	if s.stream, err = streaming.NewServer(config, &streams{s}); err != nil {
		t.Fatal(err)
	}
	web.Start()
	t.Cleanup(web.CloseClientConnections)
	t.Cleanup(web.Close)
}

func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	s.mu.Lock()
	s.requests = append(s.requests, Request{Method: method, Message: req.(proto.Message)})
	err := s.failures[method]
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

// Fail makes every call of a method fail with err; nil ends that.
func (s *Server) Fail(method string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.failures, method)
		return
	}
	s.failures[method] = err
}

// Requests returns the calls of a method so far.
func (s *Server) Requests(method string) []proto.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []proto.Message
	for _, r := range s.requests {
		if r.Method == method {
			list = append(list, r.Message)
		}
	}
	return list
}

// AddPod adds a pod as it is.
func (s *Server) AddPod(p *runtimeapi.PodSandboxStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[p.Id] = p
}

// AddContainer adds a container as it is; nothing runs in it.
func (s *Server) AddContainer(podID string, st *runtimeapi.ContainerStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[st.Id] = &container{status: st, podID: podID, config: &runtimeapi.ContainerConfig{}, ended: make(chan struct{})}
}

// AddImage adds an image that was pulled.
func (s *Server) AddImage(image *runtimeapi.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images = append(s.images, image)
}

// AddRemoteImage adds an image that can be pulled by ref.
func (s *Server) AddRemoteImage(ref string, image *runtimeapi.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registry[ref] = image
}

// HoldPull lets pulls end only once until is closed.
func (s *Server) HoldPull(until <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = until
}

// SetStats sets what the stats calls answer.
func (s *Server) SetStats(containers []*runtimeapi.ContainerStats, pods []*runtimeapi.PodSandboxStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats, s.podStats = containers, pods
}

// Pods returns how many pods there are.
func (s *Server) Pods() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pods)
}

// Container returns the status of the container with a name, nil if there is
// none.
func (s *Server) Container(name string) *runtimeapi.ContainerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.status.GetMetadata().GetName() == name {
			return proto.CloneOf(c.status)
		}
	}
	return nil
}

// Emit sends an event to all who listen.
func (s *Server) Emit(e *runtimeapi.ContainerEventResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.emit(e)
}

func (s *Server) emit(e *runtimeapi.ContainerEventResponse) {
	for l := range s.listeners {
		select {
		case l <- e:
		default: // as full as no test makes it
		}
	}
}

// Listeners returns how many follow the events.
func (s *Server) Listeners() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.listeners)
}

// newID makes IDs that differ in their first digits.
func (s *Server) newID() string {
	s.next++
	return fmt.Sprintf("%04x%060x", s.next, s.next)
}

func notFound(kind, id string) error {
	return status.Errorf(codes.NotFound, "%s %q not found", kind, id)
}
