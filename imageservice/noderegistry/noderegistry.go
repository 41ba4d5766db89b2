// Package noderegistry serves the images of a node to other nodes: the part of the
// OCI distribution API (v1.1) that reads. A client takes it as a mirror of any
// registry and says with the query parameter ns which one it means, as containerd's
// and Berth's own clients do; without ns the registry is the first word of the
// repository.
//
// What is served is what came from a registry, byte for byte: a blob belongs to a
// repository only as long as an image that was pulled from there refers to it.
// Nothing is looked up by a path: repositories are compared with the names of
// images, digests are parsed.
package noderegistry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/berth-cri/berth/imageservice/content"
	"github.com/berth-cri/berth/imageservice/policy"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/store"
)

const (
	headTimeout    = 10 * time.Second
	idleTimeout    = time.Minute
	maxHeaderBytes = 32 << 10
	maxConnections = 512
	// farewell is how long transfers may go on when the server stops.
	farewell = 2 * time.Second
)

// Images are what the node has; *store.Store is one.
type Images interface {
	Images() []*store.Image
	Content() *content.Store
}

// Options say who may have what.
type Options struct {
	// Address is host:port.
	Address string
	// Repositories are patterns of those that are served, with their registry; no
	// other is.
	Repositories []string
	// Allowed has the last word about a repository that is served.
	Allowed func(reference.Reference) bool
	// TLSCert and TLSKey are files in PEM; empty for plain HTTP. ClientCA holds the
	// certificates of those who may sign the clients'; empty if clients need none.
	TLSCert, TLSKey, ClientCA string
	// TokensFile has a line for each client; empty if they need no token. All files
	// are read again when they have changed.
	TokensFile string
	// MaxTransfers bounds the blobs that are sent at the same time, Bandwidth the
	// bytes of all of them in a second; 0 for no bound.
	MaxTransfers int
	Bandwidth    int64
	Images       Images
	Registry     prometheus.Registerer
	Logger       *slog.Logger
}

// Server is the registry. Its life: New checks the options and listens, Run serves
// until its context ends.
type Server struct {
	images       Images
	repositories policy.Names
	allowed      func(reference.Reference) bool
	access       *access
	transfers    chan struct{} // nil for no bound
	limiter      *rate.Limiter // nil for none
	manifests    manifests
	metrics      *metrics
	log          *slog.Logger
	listener     net.Listener
	http         *http.Server
}

// New listens. Errors name the option that is wrong.
func New(o Options) (*Server, error) {
	names, err := policy.ParseNames("images.serve.repositories", o.Repositories)
	if err != nil {
		return nil, err
	}
	access, err := newAccess(o.TokensFile, o.Logger)
	if err != nil {
		return nil, err
	}
	s := &Server{
		images: o.Images, repositories: names, allowed: o.Allowed, access: access,
		manifests: manifests{known: map[digest.Digest]document{}},
		metrics:   newMetrics(o.Registry), log: o.Logger,
	}
	if o.MaxTransfers > 0 {
		s.transfers = make(chan struct{}, o.MaxTransfers)
	}
	if o.Bandwidth > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(o.Bandwidth), pieceSize)
	}
	if s.listener, err = listen(o); err != nil {
		return nil, fmt.Errorf("serve images to other nodes: %w", err)
	}
	s.http = &http.Server{
		Handler: s, ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

func listen(o Options) (net.Listener, error) {
	var config *tls.Config
	if o.TLSCert != "" {
		var err error
		if config, err = newTLS(o.TLSCert, o.TLSKey, o.ClientCA, o.Logger); err != nil {
			return nil, err
		}
	}
	addr, err := net.ResolveTCPAddr("tcp", o.Address)
	if err != nil {
		return nil, err
	}
	l, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, err
	}
	limited := limitConnections(l, maxConnections)
	if config == nil {
		return limited, nil
	}
	return tls.NewListener(limited, config), nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until ctx ends, and then gives transfers a moment.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(s.listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve images to other nodes: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if s.http.Shutdown(last) != nil {
		s.http.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve images to other nodes: %w", err)
	}
	return nil
}

// readAll reads a small blob and verifies it.
func (s *Server) readAll(d digest.Digest, limit int64) ([]byte, error) {
	blob, err := s.images.Content().Open(d)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	if blob.Size() > limit {
		return nil, fmt.Errorf("blob %s has more than %d bytes: %w", d, limit, content.ErrCorrupt)
	}
	return io.ReadAll(blob.Reader(d))
}
