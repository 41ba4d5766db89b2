package server

import (
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
)

// stdio is a process's side of its streams while it is started.
type stdio struct {
	// in, out and err are what the process gets; nil with a terminal.
	in, out, err *os.File
	// socket is where the process sends the master of its terminal to, console
	// where it comes.
	socket, console *os.File
	// files are closed when the process has them.
	files []*os.File
}

// give hands the streams to a process of libcontainer.
func (s *stdio) give(process *libcontainer.Process) {
	if s.socket != nil {
		process.ConsoleSocket = s.socket
		return
	}
	process.Stdin, process.Stdout, process.Stderr = s.in, s.out, s.err
}

// close closes the container's side; more calls do nothing.
func (s *stdio) close() {
	for _, f := range s.files {
		f.Close()
	}
	s.files = nil
	if s.console != nil {
		s.console.Close()
		s.console = nil
	}
}

// makeStdio makes the streams of a container; our ends go into c.
func (c *container) makeStdio(uid, gid int) (*stdio, error) {
	if c.rec.Terminal {
		return consoleSocket()
	}
	s := &stdio{}
	fail := func(err error) (*stdio, error) {
		s.close()
		return s, fmt.Errorf("make streams: %w", err)
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	s.files = append(s.files, null)
	s.in = null
	if c.rec.Stdin {
		r, w, err := pipe(uid, gid)
		if err != nil {
			return fail(err)
		}
		f := os.NewFile(uintptr(r), "stdin")
		s.files = append(s.files, f)
		s.in, c.stdin = f, w
		if err := unix.SetNonblock(w, true); err != nil {
			return fail(err)
		}
	}
	for _, kind := range []logfile.Stream{logfile.Stdout, logfile.Stderr} {
		r, f, err := outputPipe(kind, uid, gid)
		if err != nil {
			return fail(err)
		}
		s.files = append(s.files, f)
		if kind == logfile.Stdout {
			s.out = f
		} else {
			s.err = f
		}
		if err := c.addStream(kind, r, false); err != nil {
			return fail(err)
		}
	}
	return s, nil
}

// outputPipe makes the pipe of an output. The container's end is open for reading
// too: should everybody else who reads it be killed, a writer waits for the next
// monitor (see reclaim) in place of being ended by SIGPIPE.
func outputPipe(kind logfile.Stream, uid, gid int) (ours int, theirs *os.File, err error) {
	r, w, err := pipe(uid, gid)
	if err != nil {
		return -1, nil, err
	}
	both, err := unix.Open("/proc/self/fd/"+strconv.Itoa(w), unix.O_RDWR|unix.O_CLOEXEC, 0)
	unix.Close(w)
	if err != nil {
		unix.Close(r)
		return -1, nil, &os.PathError{Op: "open again", Path: "pipe", Err: err}
	}
	return r, os.NewFile(uintptr(both), kind.String()), nil
}

// addStream takes over our end of an output.
func (c *container) addStream(kind logfile.Stream, fd int, tty bool) error {
	inode, err := inodeOf(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	c.mu.Lock()
	c.streams = append(c.streams, &stream{c: c, kind: kind, fd: fd, tty: tty})
	c.rec.Pipes[kind] = inode
	c.open++
	c.mu.Unlock()
	return unix.SetNonblock(fd, true)
}

func pipe(uid, gid int) (r, w int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, os.NewSyscallError("pipe2", err)
	}
	if uid != 0 || gid != 0 {
		if err := unix.Fchown(p[0], uid, gid); err != nil {
			unix.Close(p[0])
			unix.Close(p[1])
			return -1, -1, os.NewSyscallError("fchown", err)
		}
	}
	return p[0], p[1], nil
}

// consoleSocket has the process send the master of its terminal.
func consoleSocket() (*stdio, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	s := &stdio{socket: os.NewFile(uintptr(fds[1]), "console"), console: os.NewFile(uintptr(fds[0]), "console")}
	s.files = append(s.files, s.socket)
	return s, nil
}

// receiveConsole takes the master that has been sent by the time the container
// is created. It is kept twice, for output and for input.
func (s *stdio) receiveConsole(c *container) error {
	if s.console == nil {
		return nil
	}
	fd, err := receiveFD(int(s.console.Fd()))
	if err != nil {
		return err
	}
	if err := c.addStream(logfile.Stdout, fd, true); err != nil {
		return err
	}
	c.stdin, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	return os.NewSyscallError("fcntl", err)
}

// receiveFD takes one descriptor from a socket.
func receiveFD(socket int) (int, error) {
	name := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, name, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return -1, fmt.Errorf("receive terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("receive terminal: %d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("receive terminal: %d descriptors: %w", len(fds), err)
	}
	return fds[0], nil
}
