package server

import (
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
	"github.com/berth-cri/berth/runtimeservice/monitor/pidfd"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// recoverContainers takes up what the records of a killed monitor tell of.
func (s *Server) recoverContainers() {
	all, errs := s.records.load()
	for _, err := range errs {
		s.log.Error("recover containers", "error", err)
	}
	for _, rec := range all {
		s.recoverContainer(rec)
	}
}

func (s *Server) recoverContainer(rec *record) {
	c := s.newContainer(rec.ID)
	c.rec = *rec
	c.announced = true
	if rec.Pid == 0 {
		// It was killed amid a start; the client asks again.
		s.dropUnstarted(c)
		return
	}
	close(c.started)
	s.mu.Lock()
	s.containers[c.id] = c
	s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if rec.Exit != nil {
		c.phase = exited
		return
	}
	c.phase = running
	if rec.Frozen {
		go c.thawLeft()
	}
	fd, err := openSame(rec)
	if err != nil {
		// A client that holds a pidfd may know better; see adopt.
		return
	}
	c.pidfd = fd
	if err := c.watch(); err != nil {
		s.log.Error("recover container", "container", c.id, "error", err)
	}
}

// openSame opens a pidfd unless the PID has become another process's.
func openSame(rec *record) (int, error) {
	fd, err := pidfd.Open(rec.Pid)
	if err != nil {
		return -1, err
	}
	start, err := pidfd.StartTime(rec.Pid)
	if err != nil || start != rec.StartTime {
		unix.Close(fd)
		return -1, fmt.Errorf("process %d is another one: %w", rec.Pid, errdefs.ErrNotFound)
	}
	return fd, nil
}

func (s *Server) dropUnstarted(c *container) {
	if err := emptyCgroup(c.rec.Cgroups); err != nil {
		s.log.Error("end processes of container that was not started", "container", c.id, "error", err)
	}
	if c.rec.Runtime != nil {
		if err := c.keeper().destroy(); err != nil {
			s.log.Error("remove container that was not started", "container", c.id, "error", err)
		}
	}
	if err := s.clearLeftovers(c.id); err != nil {
		s.log.Error("remove container that was not started", "container", c.id, "error", err)
	}
	if err := removeCgroup(c.rec.Cgroups); err != nil {
		s.log.Error("remove container that was not started", "container", c.id, "error", err)
	}
	if err := s.records.remove(c.id); err != nil {
		s.log.Error("remove container that was not started", "container", c.id, "error", err)
	}
}

// adopt gives a container the descriptors back that the last monitor had and
// the client has kept.
func (s *Server) adopt(a *protocol.Adopt, frame *protocol.Frame) error {
	c := s.get(a.ID)
	if c == nil {
		return fmt.Errorf("adopt container %q: %w", a.ID, errdefs.ErrNotFound)
	}
	if len(frame.FDs) != a.FDs.Count() {
		return fmt.Errorf("adopt container %q: %d descriptors in place of %d: %w",
			a.ID, len(frame.FDs), a.FDs.Count(), errdefs.ErrInvalidArgument)
	}
	fds := frame.FDs
	frame.FDs = nil
	if err := c.adopt(a.FDs, fds); err != nil {
		return fmt.Errorf("adopt container %q: %w", a.ID, err)
	}
	return nil
}

func (c *container) adopt(has protocol.FDs, fds []int) error {
	take := func(present bool) int {
		if !present {
			return -1
		}
		fd := fds[0]
		fds = fds[1:]
		return fd
	}
	pid, stdin, stdout, stderr := take(has.Pidfd), take(has.Stdin), take(has.Stdout), take(has.Stderr)
	c.mu.Lock()
	if c.phase == deleted || !c.lost() && c.pidfd >= 0 {
		c.mu.Unlock()
		closeFDs(pid, stdin, stdout, stderr)
		return nil
	}
	unwatched := c.phase == running && c.pidfd < 0 && pid >= 0
	if unwatched {
		c.pidfd = pid
	} else {
		closeFDs(pid)
	}
	if c.stdin < 0 && !c.rec.StdinClosed {
		c.stdin = stdin
	} else {
		closeFDs(stdin)
	}
	c.mu.Unlock()
	err := c.adoptOutputs(has.Console, stdout, stderr)
	if !unwatched {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(err, c.watch())
}

func (c *container) adoptOutputs(console bool, stdout, stderr int) error {
	if stdout >= 0 {
		if err := c.addStream(logfile.Stdout, stdout, console); err != nil {
			closeFDs(stderr)
			return err
		}
		if console {
			c.mu.Lock()
			c.stdin, _ = unix.FcntlInt(uintptr(stdout), unix.F_DUPFD_CLOEXEC, 3)
			c.mu.Unlock()
		}
	}
	if stderr >= 0 {
		if err := c.addStream(logfile.Stderr, stderr, false); err != nil {
			return err
		}
	}
	if c.log == nil && c.rec.LogPath != "" {
		log, err := logfile.Open(c.rec.LogPath)
		if err != nil {
			c.server.log.Error("restore log", "container", c.id, "error", err)
		}
		c.log = log
	}
	for _, s := range c.outputs() {
		if err := s.finishDiscard(); err != nil {
			c.server.log.Error("restore log", "container", c.id, "error", err)
		}
		if err := s.watch(); err != nil {
			return err
		}
	}
	return nil
}

// settle is called when a client has given back what it has. What ended before
// that, and of what nobody has a pidfd, has an exit that nobody knows.
func (s *Server) settle() {
	for _, c := range s.list() {
		c.mu.Lock()
		gone := c.phase == running && c.pidfd < 0
		c.mu.Unlock()
		if gone {
			c.exited(&protocol.Exit{
				ID: c.id, Code: unknownCode, ExitedAt: time.Now(), Unknown: true,
				Reason: "the container ended while neither the monitor nor the daemon ran",
			})
		}
	}
}
