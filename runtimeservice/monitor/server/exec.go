package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/pidfd"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// execProcess is a further process of a container. It has a cgroup of its own
// below the container's, so that it can be ended with everything it started.
type execProcess struct {
	id        string
	c         *container
	pid       int
	startedAt time.Time
	pidfd     int
	token     token
	process   waiter
	// result is the write end of the pipe for the exit.
	result int
	// cgroup is the directory of the sub-cgroup in the one hierarchy that has
	// it, in a map as the functions for cgroups take it.
	cgroup  map[string]string
	reaping worker
	// ending is held while the exit is dealt with.
	ending sync.Mutex
}

// exec starts a process in a running container. It takes over result, in every
// case, and files, which it closes; the answer's descriptors are the caller's.
func (s *Server) exec(req *protocol.Exec, stdio [3]*os.File, result int) (protocol.Execed, []int, error) {
	answer, fds, err := s.tryExec(req, stdio, result)
	closeStdio(stdio)
	if err != nil {
		unix.Close(result)
		return answer, nil, fmt.Errorf("exec in container %q: %w", req.ContainerID, err)
	}
	return answer, fds, nil
}

func closeStdio(files [3]*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

func (s *Server) tryExec(req *protocol.Exec, stdio [3]*os.File, result int) (answer protocol.Execed, fds []int, err error) {
	c, err := s.find(req.ContainerID)
	if err != nil {
		return answer, nil, err
	}
	if req.Process == nil || len(req.Process.Args) == 0 {
		return answer, nil, fmt.Errorf("process has no command: %w", errdefs.ErrInvalidArgument)
	}
	e := &execProcess{
		id: strconv.FormatUint(s.lastExec.Add(1), 10), c: c, pidfd: -1, result: result, startedAt: time.Now(),
	}
	if err := c.giveStdio(stdio); err != nil {
		return answer, nil, err
	}
	streams, err := execStdio(req.Process.Terminal, stdio)
	if err != nil {
		return answer, nil, err
	}
	defer streams.close()
	defer c.enter()()
	if err := e.makeCgroup(); err != nil {
		return answer, nil, err
	}
	ticket := s.orphans.begin()
	defer s.orphans.finish(ticket)
	pid, process, err := c.keeper().exec(e, req.Process, streams)
	if err != nil {
		e.removeCgroup()
		if c.checkRunning() != nil {
			err = fmt.Errorf("container has ended: %w: %w", err, errdefs.ErrFailedPrecondition)
		}
		return answer, nil, err
	}
	return e.begin(pid, process, streams)
}

// execStdio takes the streams for a process, or makes the socket on which the
// master of its terminal comes. The files stay the caller's.
func execStdio(terminal bool, files [3]*os.File) (*stdio, error) {
	if terminal {
		return consoleSocket()
	}
	s := &stdio{}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return s, err
	}
	s.files = append(s.files, null)
	for i := range files {
		if files[i] == nil {
			files[i] = null
		}
	}
	s.in, s.out, s.err = files[0], files[1], files[2]
	return s, nil
}

// begin looks after a process that runs. After an error the process is ended, and only
// result is still open.
func (e *execProcess) begin(pid int, process waiter, streams *stdio) (answer protocol.Execed, fds []int, err error) {
	e.pid, e.process = pid, process
	defer func() {
		if err != nil {
			e.abandon()
			closeFDs(fds...)
		}
	}()
	if e.pidfd, err = pidfd.Open(e.pid); err != nil {
		return answer, fds, err
	}
	fd, err := unix.FcntlInt(uintptr(e.pidfd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return answer, fds, err
	}
	fds = append(fds, fd)
	if streams.console != nil {
		master, err := receiveFD(int(streams.console.Fd()))
		if err != nil {
			return answer, fds, err
		}
		fds = append(fds, master)
		answer.Console = true
	}
	answer.ExecID, answer.Pid, answer.StartedAt = e.id, e.pid, e.startedAt
	return answer, fds, e.watch()
}

// abandon ends a process that is not watched.
func (e *execProcess) abandon() {
	_ = e.kill()
	if e.process != nil {
		_, _ = e.process.Wait()
	}
	e.removeCgroup()
	closeFDs(e.pidfd)
}

// watch registers the process; from then on it is reaped when it ends.
func (e *execProcess) watch() error {
	e.c.mu.Lock() // reap waits for it
	defer e.c.mu.Unlock()
	token, err := e.c.server.poller.add(e.pidfd, func() { e.reaping.kick(e.reap) })
	if err != nil {
		return err
	}
	e.token = token
	if e.c.execs == nil {
		e.c.execs = map[string]*execProcess{}
	}
	e.c.execs[e.id] = e
	return nil
}

// reap tells the exit to whoever holds the other end of the result pipe.
func (e *execProcess) reap() {
	e.ending.Lock()
	defer e.ending.Unlock()
	e.c.mu.Lock()
	_, mine := e.c.execs[e.id]
	e.c.mu.Unlock()
	if !mine || !pidfd.Exited(e.pidfd) {
		return
	}
	s := e.c.server
	exit := s.exitOf(e.pidfd, record{ID: e.c.id, Pid: e.pid}, e.process)
	if exit.Code == 128+int(syscall.SIGKILL) {
		exit.OOMKilled = e.c.oomKilled()
	}
	if data, err := json.Marshal(exit); err == nil {
		_, _ = unix.Write(e.result, data)
	}
	e.c.mu.Lock()
	delete(e.c.execs, e.id)
	s.poller.remove(e.pidfd, e.token)
	unix.Close(e.pidfd)
	unix.Close(e.result)
	e.pidfd, e.result = -1, -1
	e.c.mu.Unlock()
	e.removeCgroup()
}

// kill ends the process and everything it started.
func (e *execProcess) kill() error {
	if len(e.cgroup) > 0 {
		return signalCgroup(e.cgroup, syscall.SIGKILL)
	}
	if e.pidfd < 0 {
		return nil
	}
	err := pidfd.Signal(e.pidfd, syscall.SIGKILL)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// killExec is the request. It is no error if the process has ended; what it left
// behind is ended all the same.
func (s *Server) killExec(req *protocol.KillExec) error {
	c, err := s.find(req.ContainerID)
	if err != nil {
		return err
	}
	c.mu.Lock()
	e := c.execs[req.ExecID]
	c.mu.Unlock()
	if e != nil {
		return e.kill()
	}
	controller, dir := subCgroup(c.cgroups(), req.ExecID)
	if dir == "" {
		return nil
	}
	paths := map[string]string{controller: dir}
	if err := emptyCgroup(paths); err != nil {
		return fmt.Errorf("end what exec'ed process of container %q left: %w", c.id, err)
	}
	_ = os.Remove(dir)
	return nil
}

// subCgroup names the cgroup of an exec'ed process: on cgroup v1 in the freezer
// hierarchy only, which can kill all of it and limits nothing.
func subCgroup(paths map[string]string, execID string) (controller, dir string) {
	controller = "freezer"
	if paths[controller] == "" {
		controller = ""
	}
	if paths[controller] == "" {
		return "", ""
	}
	return controller, filepath.Join(paths[controller], "exec-"+execID)
}

func (e *execProcess) makeCgroup() error {
	paths := e.c.cgroups()
	controller, dir := subCgroup(paths, e.id)
	if dir == "" {
		return nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make cgroup of process: %w", err)
	}
	e.cgroup = map[string]string{controller: dir}
	return nil
}

// removeCgroup removes the cgroup unless the process has left something in it;
// then it goes with the container.
func (e *execProcess) removeCgroup() {
	for _, dir := range e.cgroup {
		_ = os.Remove(dir)
	}
}

// closeFDs closes descriptors; negative ones are none.
func closeFDs(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
