package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// environment is what the program gets: nothing of the caller's that could be meant for
// another (NOTIFY_SOCKET, LISTEN_FDS).
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// giveUpTime is how long a killed program may take to end before nobody waits for it.
const giveUpTime = time.Second

// run runs a command of the runtime that starts no process.
func (r *Runtime) run(ctx context.Context, limit time.Duration, id, command string, args ...string) error {
	return r.runProcess(ctx, limit, id, command, &specs.Process{}, Streams{}, args...)
}

// runProcess runs a command of the runtime that starts a process. Its log tells what went
// wrong; what a command without streams writes does so where the log is silent.
func (r *Runtime) runProcess(ctx context.Context, limit time.Duration, id, command string, process *specs.Process, streams Streams, args ...string) error {
	log, err := os.CreateTemp(r.bundle(id), "log-")
	if err != nil {
		return fmt.Errorf("make log of %s: %w", r.name(), err)
	}
	defer os.Remove(log.Name())
	defer log.Close()
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	output := os.NewFile(uintptr(fd), "output")
	defer output.Close()
	global := append([]string{}, r.Args...)
	global = append(global, "--root", r.Root, "--log", log.Name(), "--log-format", "json")
	if r.SystemdCgroup {
		global = append(global, "--systemd-cgroup")
	}
	cmd := exec.Command(r.Path, append(append(global, command), args...)...)
	cmd.Dir, cmd.Env = r.bundle(id), environment
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.In, streams.Out, streams.Err
	if streams.Out == nil {
		cmd.Stdout = output
	}
	if streams.Err == nil {
		cmd.Stderr = output
	}
	ended, err := within(ctx, limit, cmd, process.OOMScoreAdj)
	switch {
	case err == nil:
		return nil
	case !ended:
		return fmt.Errorf("%s %s: %w", r.name(), command, err)
	}
	text := lastError(log)
	if text == "" {
		text = lastLine(output)
	}
	var exit *exec.ExitError
	switch {
	case text != "" && errors.As(err, &exit):
		return &Error{Command: r.name() + " " + command, Text: text}
	default:
		return fmt.Errorf("%s %s: %w", r.name(), command, err)
	}
}

func (r *Runtime) name() string { return filepath.Base(r.Path) }

// within runs a command until it ends, or is killed because its time is up or ctx has
// ended. ended is false if its end was not waited for.
//
// The program dies with the caller, so that nothing goes on in secret that the caller's
// successor takes for undone. The kernel ties that to the thread that started it.
//
// The program gets the OOM score, if there is one, for its processes to inherit: crun sets
// none for exec, and never one of 0, and the caller's own would spare them from being killed.
func within(ctx context.Context, limit time.Duration, cmd *exec.Cmd, oomScore *int) (ended bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		// It may wait for a file system that does not answer, and the program begin when
		// nobody waits for it any more.
		if err := cmd.Start(); err != nil {
			done <- err
			return
		}
		spare := context.AfterFunc(ctx, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
		if oomScore != nil {
			// Refused if it is lower than the caller's, and the caller is nested: programs
			// that set scores tell of it.
			_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), strconv.AppendInt(nil, int64(*oomScore), 10), 0)
		}
		err := cmd.Wait()
		spare()
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || ctx.Err() == nil {
			return true, err
		}
	case <-ctx.Done():
		select {
		case <-done:
		case <-time.After(giveUpTime):
		}
	}
	return false, outOfTime(ctx, limit)
}

func outOfTime(ctx context.Context, limit time.Duration) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no end within %s: %w", limit, context.DeadlineExceeded)
	}
	return ctx.Err()
}
