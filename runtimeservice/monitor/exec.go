package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/pidfd"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// Exec is a process that was started in a running container. Call Wait until it
// returns an exit, or Close.
type Exec struct {
	Pid       int
	StartedAt time.Time
	// Console is the master of the terminal, with Process.Terminal; it is the
	// caller's to close.
	Console *os.File

	client      *Client
	containerID string
	execID      string

	// waiting is held by the one Wait that reads the result.
	waiting chan struct{}
	result  *os.File

	mu    sync.Mutex
	pidfd int // -1 when closed
	exit  *Exit
}

// Exec starts a process in a running container. An error wraps ErrCommand if the
// command cannot be executed, errdefs.ErrNotFound if the container does not run.
func (c *Client) Exec(ctx context.Context, r ExecRequest) (*Exec, error) {
	result, end, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("exec in container %q: %w", r.ContainerID, err)
	}
	defer end.Close()
	if r.Process != nil && r.Process.Terminal {
		r.Stdin, r.Stdout, r.Stderr = nil, nil, nil
	}
	fds, release, err := descriptors(r.Stdin, r.Stdout, r.Stderr, end)
	if err != nil {
		result.Close()
		return nil, fmt.Errorf("exec in container %q: %w", r.ContainerID, err)
	}
	defer release()
	frame, err := c.do(ctx, protocol.MethodExec, protocol.Exec{
		ContainerID: r.ContainerID, Process: r.Process,
		Stdin: r.Stdin != nil, Stdout: r.Stdout != nil, Stderr: r.Stderr != nil,
	}, fds, c.abandonExec(r.ContainerID))
	if err != nil {
		result.Close()
		return nil, err
	}
	e := &Exec{client: c, containerID: r.ContainerID, result: result, pidfd: -1, waiting: make(chan struct{}, 1)}
	if err := e.take(frame); err != nil {
		result.Close()
		return nil, err
	}
	return e, nil
}

// abandonExec ends a process that nobody waits for, as the caller has left.
func (c *Client) abandonExec(containerID string) func(*protocol.Frame) {
	return func(frame *protocol.Frame) {
		defer frame.CloseFDs()
		var execed protocol.Execed
		if frame.Decode(&execed) != nil {
			return
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), ackTime)
			defer cancel()
			kill := protocol.KillExec{ContainerID: containerID, ExecID: execed.ExecID}
			if err := c.doJSON(ctx, protocol.MethodKillExec, kill, nil); err != nil {
				c.log.Warn("end process that nobody waits for", "container", containerID, "error", err)
			}
		}()
	}
}

func (e *Exec) take(frame *protocol.Frame) error {
	defer frame.CloseFDs()
	var execed protocol.Execed
	if err := frame.Decode(&execed); err != nil {
		return err
	}
	want := 1
	if execed.Console {
		want++
	}
	if len(frame.FDs) != want {
		return fmt.Errorf("exec in container %q: %d descriptors in place of %d", e.containerID, len(frame.FDs), want)
	}
	e.Pid, e.StartedAt, e.execID = execed.Pid, execed.StartedAt, execed.ExecID
	e.pidfd = frame.FDs[0]
	if execed.Console {
		fd := frame.FDs[1]
		if err := unix.SetNonblock(fd, true); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		e.Console = os.NewFile(uintptr(fd), "console")
	}
	frame.FDs = nil
	return nil
}

// Wait waits for the end of the process. When ctx ends first the process goes
// on, and Wait can be called again.
func (e *Exec) Wait(ctx context.Context) (Exit, error) {
	select {
	case e.waiting <- struct{}{}:
		defer func() { <-e.waiting }()
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
	e.mu.Lock()
	exit := e.exit
	e.mu.Unlock()
	if exit != nil {
		return *exit, nil
	}
	got, err := e.wait(ctx)
	if err != nil {
		return Exit{}, err
	}
	e.mu.Lock()
	e.exit = &got
	e.mu.Unlock()
	_ = e.Close()
	return got, nil
}

func (e *Exec) wait(ctx context.Context) (Exit, error) {
	if err := e.result.SetReadDeadline(time.Time{}); err != nil {
		return Exit{}, fmt.Errorf("wait for process: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = e.result.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	data, err := io.ReadAll(e.result)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Exit{}, ctx.Err()
	}
	if err != nil {
		return Exit{}, fmt.Errorf("wait for process: %w", err)
	}
	var exit protocol.Exit
	if len(data) > 0 {
		if err := json.Unmarshal(data, &exit); err != nil {
			return Exit{}, fmt.Errorf("wait for process: %w", err)
		}
		return exitOf(exit), nil
	}
	return e.waitAlone(ctx)
}

// aloneInterval is how often ctx is looked at while the process is waited for.
const aloneInterval = 200 * time.Millisecond

// waitAlone waits for a process whose monitor is gone.
func (e *Exec) waitAlone(ctx context.Context) (Exit, error) {
	e.mu.Lock()
	fd := e.pidfd
	e.mu.Unlock()
	if fd < 0 {
		return Exit{}, fmt.Errorf("wait for process: %w", os.ErrClosed)
	}
	for !pidfd.Wait(fd, int(aloneInterval.Milliseconds())) {
		if ctx.Err() != nil {
			return Exit{}, ctx.Err()
		}
	}
	exit := Exit{ID: e.containerID, ExitedAt: time.Now()}
	const tries = 10
	for i := 0; ; i++ {
		status, err := pidfd.Status(fd, e.Pid)
		if err == nil {
			exit.Code = pidfd.Code(status)
			return exit, nil
		}
		if i == tries {
			exit.Code, exit.Unknown = 255, true
			exit.Reason = fmt.Sprintf("the monitor ended while the process ran: %v", err)
			return exit, nil
		}
		time.Sleep(aloneInterval / 2)
	}
}

// Kill ends the process and everything it has started. It is no error if it has
// ended.
func (e *Exec) Kill(ctx context.Context) error {
	err := e.client.doJSON(ctx, protocol.MethodKillExec, protocol.KillExec{ContainerID: e.containerID, ExecID: e.execID}, nil)
	if err == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pidfd < 0 {
		return nil
	}
	if err2 := pidfd.Signal(e.pidfd, syscall.SIGKILL); err2 != nil && !errors.Is(err2, unix.ESRCH) {
		return errors.Join(err, err2)
	}
	return nil
}

// Close lets the process go on without anybody who waits for it.
func (e *Exec) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pidfd >= 0 {
		unix.Close(e.pidfd)
		e.pidfd = -1
	}
	if err := e.result.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
