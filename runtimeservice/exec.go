package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

const (
	// execOutputLimit is the most of stdout, and of stderr, that ExecSync
	// returns (CRI, ExecSyncResponse).
	execOutputLimit = 16 << 20
	// execKillTimeout bounds the killing of a process and its descendants.
	execKillTimeout = 10 * time.Second
)

// ExecSync runs a command in a running container and returns its output, of each
// stream the first 16 MiB, and its exit code. After timeout (0 is none), or when
// ctx ends, the process and its descendants are killed; the error is
// context.DeadlineExceeded then, or ctx's. Output of what it left in the
// background is not waited for.
func (s *sessions) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error) {
	out, errOut := &capped{limit: execOutputLimit}, &capped{limit: execOutputLimit}
	exit, err := s.execPipes(ctx, id, cmd, timeout, nil, out, errOut)
	if err != nil {
		return nil, nil, 0, err
	}
	return out.data, errOut.data, int32(exit.Code), nil
}

// Exec runs a command in a running container and connects its streams; nil ones
// are closed. The error of one that ended with a code other than 0 is an
// exec.CodeExitError of k8s.io/utils. When ctx ends the process and its
// descendants are killed.
func (s *sessions) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	var (
		exit monitor.Exit
		err  error
	)
	if tty {
		exit, err = s.execTerminal(ctx, id, cmd, in, out, resize)
	} else {
		exit, err = s.execPipes(ctx, id, cmd, 0, in, writerOf(out), writerOf(errw))
	}
	if err != nil {
		return err
	}
	if exit.Code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", exit.Code), Code: exit.Code}
	}
	return nil
}

// writerOf keeps a nil stream nil.
func writerOf(w io.WriteCloser) io.Writer {
	if w == nil {
		return nil
	}
	return w
}

// execProcess finds a running container and what a process in it is.
func (s *sessions) execProcess(id string, cmd []string, tty bool) (*container, *specs.Process, error) {
	c, err := s.containers.find(id)
	if err != nil {
		return nil, nil, err
	}
	if err := c.requireRunning(); err != nil {
		return nil, nil, err
	}
	base, err := s.processes.Get(c.id)
	if err != nil {
		return nil, nil, err
	}
	process, err := spec.ExecProcess(&specs.Spec{Process: base.Process}, cmd, tty)
	return c, process, err
}

// processSpec is the part of a specification that says how its process runs.
// Most of the rest is the seccomp profile, whose reading would cost more than all
// that is done here for an exec.
type processSpec struct {
	Process *specs.Process `json:"process"`
}

// pipes are the three of a process without a terminal: the ends it gets, and
// ours.
type pipes struct {
	stdin, stdout, stderr *os.File
	in, out, err          *os.File
}

func openPipes(in, out, errOut bool) (p *pipes, err error) {
	p = &pipes{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for _, stream := range []struct {
		want         bool
		ours, theirs **os.File
		weWrite      bool
	}{
		{in, &p.in, &p.stdin, true},
		{out, &p.out, &p.stdout, false},
		{errOut, &p.err, &p.stderr, false},
	} {
		if !stream.want {
			continue
		}
		if *stream.ours, *stream.theirs, err = openPipe(stream.weWrite); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// openPipe is os.Pipe with only our end non-blocking: a process that finds its
// output full is to wait, not to fail with EAGAIN.
func openPipe(weWrite bool) (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	our, their := fds[0], fds[1]
	if weWrite {
		our, their = their, our
	}
	theirs = os.NewFile(uintptr(their), "pipe")
	if err := unix.SetNonblock(our, true); err != nil {
		_ = unix.Close(our)
		return nil, nil, errors.Join(fmt.Errorf("make pipe: %w", err), theirs.Close())
	}
	return os.NewFile(uintptr(our), "pipe"), theirs, nil
}

// closeTheirs closes the ends that the process has got.
func (p *pipes) closeTheirs() { closeAll(p.stdin, p.stdout, p.stderr) }

func (p *pipes) close() {
	p.closeTheirs()
	closeAll(p.in, p.out, p.err)
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (s *sessions) execPipes(ctx context.Context, id string, cmd []string, timeout time.Duration, in io.Reader, out, errOut io.Writer) (monitor.Exit, error) {
	c, process, err := s.execProcess(id, cmd, false)
	if err != nil {
		return monitor.Exit{}, err
	}
	aboutContainer(ctx, c)
	p, err := openPipes(in != nil, out != nil, errOut != nil)
	if err != nil {
		return monitor.Exit{}, err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	started, _, err := s.monitor.Exec(ctx, monitor.ExecRequest{
		ContainerID: c.id,
		Process:     process,
		Stdin:       p.stdin,
		Stdout:      p.stdout,
		Stderr:      p.stderr,
	})
	p.closeTheirs()
	if err != nil {
		p.close()
		return monitor.Exit{}, c.orEnded(err)
	}
	defer started.Close()
	var pumps []*pump
	for _, stream := range []struct {
		from *os.File
		to   io.Writer
	}{{p.out, out}, {p.err, errOut}} {
		if stream.from != nil {
			pumps = append(pumps, startPump(stream.from, stream.to))
		}
	}
	if in != nil {
		feed(p.in, in, true)
		defer p.in.Close()
	}
	exit, err := s.awaitExec(ctx, c, started)
	if err != nil {
		stopAll(pumps)
	} else {
		drainAll(pumps)
	}
	return exit, err
}

// awaitExec waits for the end of the process; when ctx ends first it makes it.
func (s *sessions) awaitExec(ctx context.Context, c *container, started Execution) (monitor.Exit, error) {
	waited := operation.Wait(ctx, func() string { return "the end of the command" })
	exit, err := started.Wait(ctx)
	waited()
	if err == nil {
		return exit, nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execKillTimeout)
	defer cancel()
	if killed := started.Kill(killCtx); killed != nil {
		err = errors.Join(err, fmt.Errorf("kill the process and its descendants: %w", killed))
	}
	return monitor.Exit{}, fmt.Errorf("exec in container %s: %w", c.id, err)
}

func (s *sessions) execTerminal(ctx context.Context, id string, cmd []string, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) (monitor.Exit, error) {
	c, process, err := s.execProcess(id, cmd, true)
	if err != nil {
		return monitor.Exit{}, err
	}
	aboutContainer(ctx, c)
	started, console, err := s.monitor.Exec(ctx, monitor.ExecRequest{ContainerID: c.id, Process: process})
	if err != nil {
		return monitor.Exit{}, c.orEnded(err)
	}
	defer started.Close()
	if console, err = pollable(console); err != nil {
		killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execKillTimeout)
		defer cancel()
		return monitor.Exit{}, errors.Join(err, started.Kill(killCtx))
	}
	output := startPump(console, out)
	if in != nil {
		feed(console, in, false)
	}
	waiting, waited := context.WithCancel(ctx)
	defer waited()
	go followSize(waiting, resize, func(size remotecommand.TerminalSize) {
		raw, err := console.SyscallConn()
		if err != nil {
			return // it has ended
		}
		_ = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
		})
	})
	exit, err := s.awaitExec(ctx, c, started)
	if err != nil {
		stopAll([]*pump{output})
	} else {
		drainAll([]*pump{output})
	}
	return exit, err
}

// followSize hands every size on until the channel is closed or ctx ends.
func followSize(ctx context.Context, resize <-chan remotecommand.TerminalSize, set func(remotecommand.TerminalSize)) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-resize:
			if !ok {
				return
			}
			if size.Width > 0 && size.Height > 0 {
				set(size)
			}
		}
	}
}
