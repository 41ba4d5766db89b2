package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

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
		exit, err = s.execPipes(ctx, id, cmd, 0, in, out, errw)
	}
	if err != nil {
		return err
	}
	if exit.Code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", exit.Code), Code: exit.Code}
	}
	return nil
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
		p.closeOurs()
		return monitor.Exit{}, c.orEnded(err)
	}
	defer started.Close()
	pumps := p.startPumps(out, errOut)
	if in != nil {
		feed(p.in, in, true)
		defer p.in.Close()
	}
	return awaitExec(ctx, c, started, pumps)
}

// awaitExec waits for the end of the process and its output; when ctx ends first it kills
// the process.
func awaitExec(ctx context.Context, c *container, started Execution, pumps []*pump) (monitor.Exit, error) {
	waited := operation.Wait(ctx, func() string { return "the end of the command" })
	exit, err := started.Wait(ctx)
	waited()
	if err == nil {
		drainAll(pumps)
		return exit, nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	err = errors.Join(err, killExec(ctx, started))
	stopAll(pumps)
	return monitor.Exit{}, fmt.Errorf("exec in container %s: %w", c.id, err)
}

// killExec also works when ctx has ended.
func killExec(ctx context.Context, started Execution) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execKillTimeout)
	defer cancel()
	if err := started.Kill(ctx); err != nil {
		return fmt.Errorf("kill the process and its descendants: %w", err)
	}
	return nil
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
		return monitor.Exit{}, errors.Join(err, killExec(ctx, started))
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
	return awaitExec(ctx, c, started, []*pump{output})
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
