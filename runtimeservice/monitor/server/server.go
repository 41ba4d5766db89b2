// Package server is the monitor: parent of every container, writer of their
// logs, keeper of their exit codes. It drives libcontainer in its own process.
//
// Each container has its own locks and nothing on the way of a start is shared,
// so containers start side by side. What the next monitor must know, should this
// one be killed, is in records (one file per container) before it is acted on.
package server

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
	"github.com/berth-cri/berth/runtimeservice/monitor/seccompcache"
)

// Options says what a Server serves.
type Options struct {
	// Dir is the monitor's directory; the caller holds its lock.
	Dir string
	// Listener is the socket in Dir.
	Listener *net.UnixListener
	// Program is the version of this program.
	Program string
	// Lock is the descriptor of the lock of Dir.
	Lock int
	// OOMScoreAdj is what containers get that ask for nothing; without it they
	// would inherit the monitor's.
	OOMScoreAdj int
	Logger      *slog.Logger
	// Resume is what this program took over from one before it in the same
	// process; else it is nil.
	Resume *Resume
}

// Server is the monitor. Make it with New, then call Run.
type Server struct {
	dir       string
	listener  *net.UnixListener
	program   string
	lock      int
	oomScore  int
	from      *Resume
	log       *slog.Logger
	startedAt time.Time

	poller    *poller
	scratches *scratches
	records   records
	orphans   *orphans
	exits     exits
	profiles  profiles
	filters   *seccompcache.Cache
	lastExec  atomic.Uint64
	ooms      *oomWatch
	trimmer   trimmer
	criu      criuState

	mu         sync.Mutex
	containers map[string]*container
	owner      *protocol.Conn
	conns      map[*peer]struct{}
	closing    bool

	// parked is sent to when no more connections are accepted, resumed when
	// the upgrade was given up.
	parked, resumed chan struct{}
}

// New prepares the directory and takes up the containers of an earlier monitor.
func New(options Options) (*Server, error) {
	s := &Server{
		dir: options.Dir, listener: options.Listener, program: options.Program, log: options.Logger,
		lock: options.Lock, oomScore: options.OOMScoreAdj, from: options.Resume, parked: make(chan struct{}), resumed: make(chan struct{}),
		startedAt:  time.Now(),
		records:    records{filepath.Join(options.Dir, "containers")},
		containers: map[string]*container{},
		conns:      map[*peer]struct{}{},
	}
	// A socket that is still there is of a terminal that nobody waits for, and options of
	// CRIU are of a restore that was cut off.
	for _, dir := range []string{s.consolesDir(), s.criuConfigsDir()} {
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("make directory of monitor: %w", err)
		}
	}
	for _, dir := range []string{s.records.dir, s.stateDir(), s.emptyDir(), s.runtimesDir(), s.bundlesDir(), s.consolesDir(), s.criuConfigsDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory of monitor: %w", err)
		}
	}
	// Exec IDs must not meet those of an earlier monitor.
	s.lastExec.Store(uint64(time.Now().UnixNano()))
	var err error
	if s.poller, err = newPoller(); err != nil {
		return nil, err
	}
	if s.ooms, err = newOOMWatch(s.poller); err != nil {
		return nil, err
	}
	s.scratches = &scratches{}
	s.criu = newCRIUState()
	if s.scratches.journal, err = openJournal(options.Dir); err != nil {
		s.log.Error("open journal; a kill may repeat output in logs", "error", err)
	}
	if err := warmUpCgroups(); err != nil {
		return nil, err
	}
	if s.filters, err = seccompcache.New("/proc/self/exe"); err != nil {
		return nil, fmt.Errorf("make the cache of seccomp filters: %w", err)
	}
	s.orphans = newOrphans(s.knows)
	return s, nil
}

// stateDir is libcontainer's root.
func (s *Server) stateDir() string { return filepath.Join(s.dir, "state") }

// emptyDir is the root of the inits of pods.
func (s *Server) emptyDir() string { return filepath.Join(s.dir, "empty") }

// Run serves until the listener fails.
func (s *Server) Run() error {
	go s.poller.run()
	go s.orphans.run(nil)
	if s.from != nil {
		s.resume(s.from)
	} else {
		s.recoverContainers()
	}
	s.recoverLogs()
	for {
		socket, err := s.listener.AcceptUnix()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.parked <- struct{}{}
			<-s.resumed
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			s.log.Error("accept connection", "error", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		conn := protocol.NewConn(socket)
		if err := conn.CheckPeer(); err != nil {
			s.log.Warn("refuse connection", "error", err)
			conn.Close()
			continue
		}
		s.serve(conn)
	}
}

// get returns the container of an ID, whatever has become of it; nil if there is none.
func (s *Server) get(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id]
}

// list returns all containers that are not deleted.
func (s *Server) list() []*container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.containers))
}

// knows reports whether a process is a container's or was exec'ed in one, and
// is reaped as such.
func (s *Server) knows(pid int) bool {
	for _, c := range s.list() {
		c.mu.Lock()
		known := c.phase == running && c.rec.Pid == pid
		for _, e := range c.execs {
			known = known || e.pid == pid
		}
		c.mu.Unlock()
		if known {
			return true
		}
	}
	return false
}

func (s *Server) info() protocol.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return protocol.Info{
		Pid: os.Getpid(), Program: s.program, Version: protocol.Version,
		Containers: len(s.containers), StartedAt: s.startedAt,
	}
}

// tellClosedInputs repeats to a new owner which inputs have ended, as its
// references would keep them open.
func (s *Server) tellClosedInputs(owner *protocol.Conn) {
	for _, c := range s.list() {
		c.mu.Lock()
		closed := c.rec.StdinClosed && c.phase == running
		c.mu.Unlock()
		if closed {
			_ = owner.SendJSON(protocol.Frame{Kind: protocol.FrameStdinClosed}, protocol.Named{ID: c.id})
		}
	}
}

// tellOwner sends a frame to the client that owns the containers, if there is
// one now. It does not wait for it.
func (s *Server) tellOwner(frame protocol.Frame, body any) {
	s.mu.Lock()
	owner := s.owner
	s.mu.Unlock()
	if owner != nil {
		go func() { _ = owner.SendJSON(frame, body) }()
	}
}
