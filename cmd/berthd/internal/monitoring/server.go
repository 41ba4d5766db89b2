package monitoring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/berth-cri/berth/operation"
)

// headerTimeout is how long a client may take to say what it wants.
const headerTimeout = 10 * time.Second

// Options say what is served.
type Options struct {
	Metrics prometheus.Gatherer
	Health  *Health
	// Operations are listed at /debug/ops; nil for none.
	Operations *operation.Registry
	// Pprof adds /debug/pprof.
	Pprof  bool
	Logger *slog.Logger
}

// Server is the HTTP server. It listens from Listen on and answers while Run
// runs.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen takes the address, host:port.
func Listen(ctx context.Context, address string, opts Options) (*Server, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on metrics address %q: %w", address, errors.Unwrap(err))
	}
	return &Server{listener: listener, http: &http.Server{
		Handler:           handler(opts),
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
	}}, nil
}

// Addr is the address that the server listens on, with the port that it got.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until ctx ends, and then closes all connections. It is called once.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.http.Close() })
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// Close stops listening; for a server that never ran.
func (s *Server) Close() error { return s.listener.Close() }

func handler(opts Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(opts.Metrics, promhttp.HandlerOpts{
		// One collector that fails must not hide the metrics of the others.
		ErrorHandling: promhttp.ContinueOnError,
		ErrorLog:      slog.NewLogLogger(opts.Logger.Handler(), slog.LevelWarn),
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { serveHealth(w, r, opts.Health) })
	if opts.Operations != nil {
		mux.HandleFunc("GET /debug/ops", func(w http.ResponseWriter, _ *http.Request) { serveOperations(w, opts.Operations) })
	}
	if opts.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// serveHealth answers as Kubernetes components do: "ok", or the list of checks
// if one fails or ?verbose asks for it.
func serveHealth(w http.ResponseWriter, r *http.Request, health *Health) {
	results := health.Results(r.Context())
	code := http.StatusOK
	for _, result := range results {
		if result.Err != nil {
			code = http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	if code == http.StatusOK && !r.URL.Query().Has("verbose") {
		fmt.Fprintln(w, "ok")
		return
	}
	for _, result := range results {
		if result.Err != nil {
			fmt.Fprintf(w, "[-] %s: %v\n", result.Name, result.Err)
		} else {
			fmt.Fprintf(w, "[+] %s: ok\n", result.Name)
		}
	}
}
