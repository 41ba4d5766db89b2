package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/berth-cri/berth/operation"
)

const (
	defaultStreamingAddress = "127.0.0.1"
	// defaultMaxSessions bounds the sessions that are open at a time.
	defaultMaxSessions = 1024
	// defaultIdleTimeout is the kubelet's own for streaming connections.
	defaultIdleTimeout = 4 * time.Hour
	// requestHeadTimeout bounds how long a connection may take to say what it
	// wants.
	requestHeadTimeout = 10 * time.Second
	// lingerTimeout is how long a connection may stay open after its session
	// ended, for the last bytes to arrive. The libraries close it themselves,
	// except where a client never created its streams.
	lingerTimeout = 5 * time.Second
	// farewellTimeout bounds the wait for sessions that were told to end, and for
	// their clients to leave.
	farewellTimeout = 2 * time.Second
)

// StreamingOptions say where and how streams are served.
type StreamingOptions struct {
	// Address is a loopback IP address, 127.0.0.1 by default: streams are not
	// encrypted, and what a URL's token opens is a shell.
	Address string
	// Port to listen on; 0 picks a free one.
	Port int
	// IdleTimeout ends a session without traffic; 4 hours by default.
	IdleTimeout time.Duration
	// CreationTimeout bounds how long a client may take to create its streams;
	// 30 s by default.
	CreationTimeout time.Duration
	// MaxSessions bounds the sessions open at a time; 1024 by default.
	MaxSessions int
}

func (o StreamingOptions) withDefaults() StreamingOptions {
	if o.Address == "" {
		o.Address = defaultStreamingAddress
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = defaultIdleTimeout
	}
	if o.CreationTimeout == 0 {
		o.CreationTimeout = remotecommand.DefaultStreamCreationTimeout
	}
	if o.MaxSessions == 0 {
		o.MaxSessions = defaultMaxSessions
	}
	return o
}

// streamingServer serves the sessions of Exec, Attach and PortForward over SPDY
// and WebSocket. The protocols are those of k8s.io/cri-streaming; tokens and
// connections are kept here, because the server of that module gives a
// port-forward no context that ends with its client, does not say over WebSocket
// which streams were asked for, and leaves the connection of a client that
// created no streams open.
//
// A session: exec, attach or portForward issues a token, which is good for one
// request within a minute; the request redeems it; its handler runs until the
// session ends, its context ends with the connection.
type streamingServer struct {
	options  StreamingOptions
	streams  Streams
	running  *operation.Registry
	logger   *slog.Logger
	tokens   *tokens
	sessions *sessionLimit
	conns    *connections
	http     *http.Server
	listener atomic.Pointer[net.Listener]
}

func newStreamingServer(o StreamingOptions, streams Streams, running *operation.Registry, logger *slog.Logger) (*streamingServer, error) {
	o = o.withDefaults()
	addr, err := netip.ParseAddr(o.Address)
	if err != nil || !addr.IsLoopback() {
		return nil, fmt.Errorf("streaming address %q is not a loopback IP address: %w", o.Address, errdefs.ErrInvalidArgument)
	}
	if o.Port < 0 || o.Port > 65535 {
		return nil, fmt.Errorf("streaming port %d is not between 0 and 65535: %w", o.Port, errdefs.ErrInvalidArgument)
	}
	s := &streamingServer{
		options:  o,
		streams:  streams,
		running:  running,
		logger:   logger,
		tokens:   newTokens(time.Now),
		sessions: newSessionLimit(o.MaxSessions),
		conns:    newConnections(),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{token}", s.serveExec)
	mux.HandleFunc("/attach/{token}", s.serveAttach)
	mux.HandleFunc("/portforward/{token}", s.servePortForward)
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: requestHeadTimeout,
		IdleTimeout:       requestHeadTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       s.conns.context,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	return s, nil
}

// listen opens the address; the URLs are right from then on.
func (s *streamingServer) listen() error {
	addr := net.JoinHostPort(s.options.Address, fmt.Sprint(s.options.Port))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for streams on %s: %w", addr, err)
	}
	s.listener.Store(&l)
	return nil
}

// serve serves sessions until stop. The error of a server that was stopped is nil.
func (s *streamingServer) serve() error {
	err := s.http.Serve(s.conns.listener(*s.listener.Load()))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve streams: %w", err)
}

// stop ends the server and every session. A session that runs is told first and
// has a moment to tell its client, and the client one to hear it: a connection
// that just closes looks to kubectl like a command that succeeded.
func (s *streamingServer) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), farewellTimeout)
	defer cancel()
	s.conns.leaveAll()
	s.sessions.drain(ctx)
	s.http.Close()
	s.conns.wait(ctx)
	s.conns.closeAll()
}

// address is where the server listens, empty before listen.
func (s *streamingServer) address() string {
	l := s.listener.Load()
	if l == nil {
		return ""
	}
	return (*l).Addr().String()
}

func (s *streamingServer) exec(r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	u, err := s.issue("exec", r)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ExecResponse{Url: u}, nil
}

func (s *streamingServer) attach(r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	u, err := s.issue("attach", r)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.AttachResponse{Url: u}, nil
}

func (s *streamingServer) portForward(r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	u, err := s.issue("portforward", r)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PortForwardResponse{Url: u}, nil
}

// issue makes the URL that opens a session for a request.
func (s *streamingServer) issue(kind string, request any) (string, error) {
	addr := s.address()
	if addr == "" {
		return "", fmt.Errorf("make a streaming URL: the streaming server does not run: %w", errdefs.ErrUnavailable)
	}
	token, err := s.tokens.issue(request)
	if err != nil {
		return "", fmt.Errorf("make a streaming URL: %w", err)
	}
	u := url.URL{Scheme: "http", Host: addr, Path: "/" + kind + "/" + token}
	return u.String(), nil
}

func (s *streamingServer) serveExec(w http.ResponseWriter, r *http.Request) {
	request, end, ok := beginSession[*runtimeapi.ExecRequest](s, w, r)
	if !ok {
		return
	}
	defer end()
	attached := attachment{request.GetStdin(), request.GetStdout(), request.GetStderr()}
	remotecommand.ServeExec(w, r, &execSession{s, attached}, "", "", request.GetContainerId(), request.GetCmd(),
		attached.options(request.GetTty()), s.options.IdleTimeout, s.options.CreationTimeout,
		remotecommand.SupportedStreamingProtocols)
}

func (s *streamingServer) serveAttach(w http.ResponseWriter, r *http.Request) {
	request, end, ok := beginSession[*runtimeapi.AttachRequest](s, w, r)
	if !ok {
		return
	}
	defer end()
	attached := attachment{request.GetStdin(), request.GetStdout(), request.GetStderr()}
	remotecommand.ServeAttach(w, r, &attachSession{s, attached}, "", "", request.GetContainerId(),
		attached.options(request.GetTty()), s.options.IdleTimeout, s.options.CreationTimeout,
		remotecommand.SupportedStreamingProtocols)
}

func (s *streamingServer) servePortForward(w http.ResponseWriter, r *http.Request) {
	request, end, ok := beginSession[*runtimeapi.PortForwardRequest](s, w, r)
	if !ok {
		return
	}
	defer end()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	portforward.ServePortForward(w, r, &portForwardSession{s, ctx}, request.GetPodSandboxId(), "",
		&portforward.V4Options{Ports: request.GetPort()}, s.options.IdleTimeout, s.options.CreationTimeout,
		portforward.SupportedProtocols)
}

// beginSession redeems the token of a request and takes a place among the
// sessions; end gives it back. Without ok the answer has been written.
func beginSession[R any](s *streamingServer, w http.ResponseWriter, r *http.Request) (request R, end func(), ok bool) {
	redeemed, found := s.tokens.redeem(r.PathValue("token"))
	request, ok = redeemed.(R)
	if !found || !ok {
		http.NotFound(w, r)
		return request, nil, false
	}
	if !s.sessions.acquire() {
		http.Error(w, "too many streaming sessions are open", http.StatusServiceUnavailable)
		return request, nil, false
	}
	return request, func() {
		s.sessions.release()
		s.conns.finish(r.Context())
	}, true
}
