package server

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
	"github.com/berth-cri/berth/runtimeservice/monitor/pidfd"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// waiter is a process of ours that has ended and whose handle is to be let go.
type waiter interface {
	Wait() (*os.ProcessState, error)
}

// container is one container, or the init process of a pod.
//
//	starting ──> running ──> exited ──> deleted
//	    └───────────(failure)──────────────^
//
// Descriptors are plain ints; -1 is none.
type container struct {
	id     string
	server *Server

	// started is closed when the start succeeded or failed; startErr is set
	// before.
	started  chan struct{}
	startErr error

	// ctx ends when a start under way is to be given up.
	ctx    context.Context
	cancel context.CancelFunc

	// ops serialises what goes through libcontainer's object, apart from the
	// start itself.
	ops sync.Mutex
	// removing serialises deletes, ending the report of an exit.
	removing, ending sync.Mutex

	// streams and log are set before started is closed.
	streams []*stream
	log     *logfile.Writer

	mu sync.Mutex
	// below: guarded by mu
	rec      record
	phase    phase
	pidfd    int
	pidToken token
	stdin    int // write end of the pipe, or duplicate of the terminal
	lib      *libcontainer.Container
	process  waiter
	// attached are the clients that get output; clients are these and those
	// that only wait for what is queued.
	attached  []*attachment
	clients   map[*attachment]struct{}
	open      int // streams that have not ended
	execs     map[string]*execProcess
	announced bool // the client knows that it was started
	reaping   worker
	ooms      *oomCount // nil before it ran
	hold      *hold     // while it is frozen
	entering  int       // processes that are on their way into it; see enter
	// unfinished are what an earlier monitor noted of the outputs.
	unfinished [2]*slot
	// cancelled is set by a Delete that meets a start under way.
	cancelled bool
}

type phase int

const (
	starting phase = iota
	running
	exited
	deleted
)

func (s *Server) newContainer(id string) *container {
	ctx, cancel := context.WithCancel(context.Background())
	return &container{id: id, server: s, started: make(chan struct{}), ctx: ctx, cancel: cancel, pidfd: -1, stdin: -1}
}

// save writes the record; mu is held. A deleted container has none.
func (c *container) save() error {
	if c.phase == deleted {
		return nil
	}
	return c.server.records.save(&c.rec)
}

// removeRecord is the last step of a delete that can fail.
func (c *container) removeRecord() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.server.records.remove(c.id); err != nil {
		return err
	}
	c.phase = deleted
	return nil
}

// checkRunning returns an error of the right kind unless the container runs. It
// does not wait for a start under way.
func (c *container) checkRunning() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != running {
		return fmt.Errorf("container %q does not run: %w", c.id, errdefs.ErrNotFound)
	}
	return nil
}

// entry is the container as List shows it.
func (c *container) entry() protocol.Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	return protocol.Container{
		ID: c.id, Pid: c.rec.Pid, StartedAt: c.rec.StartedAt, Exit: c.rec.Exit,
		Lost: c.lost() || c.phase == running && c.pidfd < 0,
	}
}

// lost says that output or input should be there and is not; mu is held.
func (c *container) lost() bool {
	return !c.rec.PodInit && len(c.streams) == 0
}

// describe lists the descriptors for the client and duplicates them, so that
// they can be sent while the container ends.
func (c *container) describe() (protocol.Started, []int) {
	var fds duplicates
	c.mu.Lock()
	started := protocol.Started{Pid: c.rec.Pid, StartedAt: c.rec.StartedAt}
	started.FDs.Pidfd = fds.add(c.pidfd)
	if c.rec.Terminal {
		started.FDs.Console = true
	} else {
		started.FDs.Stdin = fds.add(c.stdin)
	}
	c.mu.Unlock()
	for _, s := range c.outputs() {
		s.mu.Lock()
		has := fds.add(s.fd)
		s.mu.Unlock()
		if s.kind == logfile.Stdout {
			started.FDs.Stdout = has
		} else {
			started.FDs.Stderr = has
		}
	}
	return started, fds
}

// outputs returns the streams. A stream's mu is taken before the container's,
// never after.
func (c *container) outputs() []*stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.streams)
}

// duplicates are descriptors for a frame.
type duplicates []int

func (d *duplicates) add(fd int) bool {
	if fd < 0 {
		return false
	}
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return false
	}
	*d = append(*d, copied)
	return true
}

// watch begins to look after a process that runs; mu is held.
func (c *container) watch() (err error) {
	if c.ooms == nil {
		c.countOOMs()
	}
	c.pidToken, err = c.server.poller.add(c.pidfd, func() { c.reaping.kick(c.reap) })
	return err
}

// countOOMs begins to count what the OOM killer takes; mu is held.
func (c *container) countOOMs() {
	var err error
	if c.ooms, err = c.server.ooms.add(c.rec.Cgroups); err != nil {
		c.server.log.Warn("watch container", "container", c.id, "error", err)
	}
}

// oomKilled reports whether the OOM killer was at work in the container's cgroup.
func (c *container) oomKilled() bool {
	c.mu.Lock()
	ooms, paths := c.ooms, c.rec.Cgroups
	c.mu.Unlock()
	if ooms != nil {
		return ooms.read() > 0
	}
	kills, _ := oomKills(paths)
	return kills > 0
}

// drainTime bounds how long the report of an exit waits for a log that hangs.
const drainTime = 2 * time.Second

// reap is called when the process has ended.
func (c *container) reap() {
	<-c.started
	c.ending.Lock()
	defer c.ending.Unlock()
	c.mu.Lock()
	fd, rec, process := c.pidfd, c.rec, c.process
	c.mu.Unlock()
	if fd < 0 || !pidfd.Exited(fd) || rec.Exit != nil {
		return
	}
	exit := c.server.exitOf(fd, rec, process)
	exit.OOMKilled = c.oomKilled() // before the cgroup goes
	c.drainAll()
	c.exited(exit)
}

// drainAll carries what the process has written before the exit is told.
func (c *container) drainAll() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, s := range c.outputs() {
			s.drain()
		}
	}()
	select {
	case <-done:
	case <-time.After(drainTime):
	}
}

// exited records the exit and has it told.
func (c *container) exited(exit *protocol.Exit) {
	exit.OOMKilled = exit.OOMKilled || c.oomKilled()
	c.mu.Lock()
	if c.phase != running {
		c.mu.Unlock()
		return
	}
	c.phase = exited
	c.rec.Exit = exit
	c.process = nil
	if err := c.save(); err != nil {
		c.server.log.Error("record exit of container", "container", c.id, "error", err)
	}
	c.server.poller.remove(c.pidfd, c.pidToken)
	c.pidToken = 0
	if c.ooms != nil {
		c.ooms.stop()
	}
	c.mu.Unlock()
	c.server.exits.changed()
}

// streamEnded is called once for each stream. When the last has ended, so have
// the sessions of attached clients.
func (c *container) streamEnded() {
	c.mu.Lock()
	c.open--
	var ended []*attachment
	if c.open == 0 {
		ended, c.attached = c.attached, nil
	}
	c.mu.Unlock()
	for _, a := range ended {
		a.finish()
	}
}

// closeStdin closes the standard input of the container for good, and makes
// the client close its reference.
func (c *container) closeStdin() {
	c.mu.Lock()
	if c.stdin < 0 || c.rec.Terminal {
		c.mu.Unlock()
		return
	}
	unix.Close(c.stdin)
	c.stdin = -1
	c.rec.StdinClosed = true
	err := c.save()
	c.mu.Unlock()
	if err != nil {
		c.server.log.Error("record closed stdin of container", "container", c.id, "error", err)
	}
	c.server.tellOwner(protocol.Frame{Kind: protocol.FrameStdinClosed}, protocol.Named{ID: c.id})
}

// release closes everything; the container is deleted or was never started.
func (c *container) release() {
	for _, s := range c.outputs() {
		s.close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase = deleted
	for i, slot := range c.unfinished {
		slot.give()
		c.unfinished[i] = nil
	}
	c.server.poller.remove(c.pidfd, c.pidToken)
	if c.ooms != nil {
		c.ooms.stop()
	}
	for _, fd := range []*int{&c.pidfd, &c.stdin} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	c.pidToken = 0
	c.cancel()
	c.lib, c.process = nil, nil
	if c.log != nil {
		_ = c.log.Close()
	}
}
