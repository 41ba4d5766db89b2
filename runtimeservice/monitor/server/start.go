package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
	"github.com/berth-cri/berth/runtimeservice/monitor/pidfd"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// start creates and starts a container, or joins a start of the same ID that is
// under way or done. It returns when the command has been told to run.
// The clients get what it writes from the first byte on, or where it runs already
// from now on; without a container they are closed.
func (s *Server) start(req *protocol.Start, clients []*attachment) (c *container, err error) {
	defer func() {
		if err != nil {
			for _, a := range clients {
				a.closeFiles()
			}
		}
	}()
	c, joined, err := s.startOnce(req.ID, func(c *container) error { return c.start(req, clients) })
	if err == nil && joined {
		c.serveClients(clients)
	}
	return c, err
}

// startOnce has start start the container of an ID, or joins a start of it that is under way
// or done.
func (s *Server) startOnce(id string, start func(*container) error) (c *container, joined bool, err error) {
	c, first, err := s.claim(id)
	if err != nil {
		return nil, false, err
	}
	if !first {
		<-c.started
		return c, true, c.startErr
	}
	ticket := s.orphans.begin()
	err = start(c)
	s.finishStart(c, err)
	s.orphans.finish(ticket)
	return c, false, err
}

// claim returns the container of an ID, made new and starting if there is none.
func (s *Server) claim(id string) (c *container, first bool, err error) {
	if err := checkID(id); err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c, false, nil
	}
	c = s.newContainer(id)
	s.containers[id] = c
	return c, true, nil
}

// checkID allows what libcontainer allows, and no name that begins with a
// period.
func checkID(id string) error {
	ok := id != "" && len(id) <= 128 && id[0] != '.'
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r))
	}
	if !ok {
		return fmt.Errorf("container ID %q is malformed: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// finishStart publishes the outcome of a start. After a failure nothing of the
// container is left.
func (s *Server) finishStart(c *container, err error) {
	if err != nil {
		s.mu.Lock()
		delete(s.containers, c.id)
		s.mu.Unlock()
		c.startErr = err
	}
	close(c.started)
	if err == nil {
		for _, st := range c.outputs() {
			if err := st.watch(); err != nil {
				s.log.Error("watch output of container", "container", c.id, "error", err)
			}
		}
	}
}

func (c *container) start(req *protocol.Start, clients []*attachment) (err error) {
	b, err := c.newBackend(req)
	if err != nil {
		return fmt.Errorf("start container %q: %w", c.id, err)
	}
	c.mu.Lock()
	c.rec = record{
		ID: c.id, LogPath: req.LogPath, Terminal: req.Spec.Process.Terminal,
		Stdin: req.Stdin, StdinOnce: req.StdinOnce, Runtime: req.Runtime,
	}
	c.mu.Unlock()
	var undo undo
	defer func() {
		if err != nil {
			undo.run()
			err = fmt.Errorf("start container %q: %w", c.id, err)
		}
	}()
	undo.add(c.release)
	if req.LogPath != "" {
		if c.log, err = logfile.Open(req.LogPath); err != nil {
			return err
		}
	}
	uid, gid, err := b.owner()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.rec.Owner = [2]int{uid, gid}
	c.mu.Unlock()
	undo.add(func() { c.destroyFailed(b) })
	if err := c.recordStart(b); err != nil {
		return err
	}
	undo.add(func() { _ = c.server.records.remove(c.id) })
	stdio, err := c.makeStdio(uid, gid)
	if err != nil {
		return err
	}
	defer stdio.close()
	pid, process, err := b.create(stdio)
	if err != nil {
		return err
	}
	return c.finish(b, pid, process, stdio, clients)
}

// recordStart writes the record before the first process exists.
func (c *container) recordStart(b starter) error {
	cgroups, err := b.prepare()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec.Cgroups = cgroups
	return c.save()
}

// finish lets the created container run its command.
func (c *container) finish(b starter, pid int, process waiter, stdio *stdio, clients []*attachment) error {
	fd, err := pidfd.Open(pid)
	if err != nil {
		return err
	}
	if err := stdio.receiveConsole(c); err != nil {
		unix.Close(fd)
		return err
	}
	stdio.close()
	c.serveClients(clients)
	c.mu.Lock()
	c.countOOMs() // the command may be killed, and its cgroup gone, before the record is written
	c.mu.Unlock()
	if err := b.release(fd); err != nil {
		unix.Close(fd)
		return err
	}
	return c.running(pid, fd, process)
}

// running makes the container a running one.
func (c *container) running(pid, fd int, process waiter) error {
	startTime, err := pidfd.StartTime(pid)
	if err != nil {
		// It is a zombie at worst, as nobody has waited for it.
		unix.Close(fd)
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pidfd, c.process = fd, process
	c.rec.Pid, c.rec.StartTime, c.rec.StartedAt = pid, startTime, time.Now()
	if err := c.save(); err != nil {
		return err
	}
	if c.cancelled {
		return fmt.Errorf("container was deleted: %w", errdefs.ErrUnavailable)
	}
	c.phase = running
	return c.watch()
}

// execFifo is the file in libcontainer's state directory on which the init of a
// created container waits before it executes the command.
const execFifo = "exec.fifo"

// releaseInit lets a created container go on. libcontainer could do it too, but
// by a blocking open(2), which stays behind for ever if init is killed now.
func releaseInit(stateDir string, fd int) error {
	path := filepath.Join(stateDir, execFifo)
	fifo, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fifo)
	var b [1]byte
	for {
		p := []unix.PollFd{{Fd: int32(fifo), Events: unix.POLLIN}, {Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if n, _ := unix.Read(fifo, b[:]); n == 1 {
			break
		}
		if p[1].Revents != 0 {
			return errors.New("init of container ended before it ran the command")
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// commandError marks the error of a command that cannot be executed, or not in its
// working directory. It comes as text, because another process met it.
func commandError(err error, process *libcontainer.Process) error {
	text := err.Error()
	if i := strings.Index(text, "exec: "+strconv.Quote(process.Args[0])+": "); i >= 0 {
		return fmt.Errorf("%w: %s: %w", protocol.ErrCommand, text[i:], errdefs.ErrInvalidArgument)
	}
	if i := strings.Index(text, "chdir to cwd ("); i >= 0 {
		return fmt.Errorf("%w: %s: %w", protocol.ErrCommand, text[i:], errdefs.ErrInvalidArgument)
	}
	if _, after, ok := strings.Cut(text, "mkdir "); ok {
		dir, why, _ := strings.Cut(after, ": ")
		if strings.HasPrefix(process.Cwd+"/", dir+"/") {
			return fmt.Errorf("%w: make working directory %q: %s: %w", protocol.ErrCommand, process.Cwd, why, errdefs.ErrInvalidArgument)
		}
	}
	return err
}

// undo is what has to be taken back, last first, if a later step fails.
type undo struct {
	steps []func()
}

func (u *undo) add(step func()) { u.steps = append(u.steps, step) }

func (u *undo) run() {
	for i := len(u.steps) - 1; i >= 0; i-- {
		u.steps[i]()
	}
}

// destroyFailed removes what a failed start has left.
func (c *container) destroyFailed(k keeper) {
	cgroups := c.cgroups()
	if err := emptyCgroup(cgroups); err != nil {
		c.server.log.Error("end processes of container that failed to start", "container", c.id, "error", err)
	}
	if err := k.destroy(); err != nil {
		c.server.log.Error("remove container that failed to start", "container", c.id, "error", err)
	}
	_ = removeCgroup(cgroups)
	_ = os.RemoveAll(filepath.Join(c.server.stateDir(), c.id))
}

// clearLeftovers removes the state of a container that nobody has a record of.
func (s *Server) clearLeftovers(id string) error {
	dir := filepath.Join(s.stateDir(), id)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if lib, err := libcontainer.Load(s.stateDir(), id); err == nil {
		state, err := lib.State()
		if err != nil {
			return err
		}
		if err := emptyCgroup(state.CgroupPaths); err != nil {
			s.log.Error("end processes that nobody has a record of", "container", id, "error", err)
		}
		if err := lib.Destroy(); err != nil {
			s.log.Error("remove container that nobody has a record of", "container", id, "error", err)
		}
		_ = removeCgroup(state.CgroupPaths)
	}
	return os.RemoveAll(dir)
}
