package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/crilog"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
)

// runForeground starts the container and, unless it is detached, stays with it
// to its end.
//
// With input the terminal is attached before the start, so that the first bytes
// are not missed. Without, the output is read from the container's log: that has
// every byte from the start, and goes on while berthd restarts.
func (r *runner) runForeground(ctx context.Context, signals <-chan os.Signal) error {
	if r.flags.detach {
		if err := r.start(ctx); err != nil {
			return errors.Join(err, r.undo.run(ctx))
		}
		_, err := fmt.Fprintln(r.stdout, r.id)
		return err
	}
	stop := onSignal(signals, r.endContainer(ctx))
	defer stop()
	var status *runtimeapi.ContainerStatus
	var err error
	if r.flags.interactive {
		status, err = r.runAttached(ctx)
	} else {
		status, err = r.runLogged(ctx)
	}
	if errors.Is(err, streams.ErrDetached) {
		return r.leaveRunning()
	}
	return r.finish(ctx, status, err)
}

// endContainer returns what a signal does: the first asks the container to end,
// the second kills it.
func (r *runner) endContainer(ctx context.Context) func() {
	var count atomic.Int32
	return func() {
		timeout := r.flags.stopTimeout
		if count.Add(1) > 1 {
			timeout = 0
		}
		go func() {
			// An error shows as a container that goes on, and a signal can
			// be repeated.
			_ = stopContainer(ctx, r.c, r.id, timeout)
		}()
	}
}

func (r *runner) runLogged(ctx context.Context) (*runtimeapi.ContainerStatus, error) {
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	return r.followLog(ctx)
}

// followLog prints the container's log from its beginning to its end.
func (r *runner) followLog(ctx context.Context) (*runtimeapi.ContainerStatus, error) {
	done, printed := make(chan struct{}), make(chan error, 1)
	go func() {
		printer := &crilog.Printer{Out: r.stdout, Err: r.stderr}
		path := filepath.Join(r.pod.LogDirectory, r.container.LogPath)
		printed <- crilog.Read(ctx, path, printer, crilog.Options{Tail: -1, Follow: true, Done: done})
	}()
	status, err := waitExit(ctx, r.c, r.id)
	close(done)
	return status, errors.Join(err, <-printed)
}

func (r *runner) runAttached(ctx context.Context) (*runtimeapi.ContainerStatus, error) {
	keys, err := r.detachKeys()
	if err != nil {
		return nil, err
	}
	early := r.attachEarly(ctx, keys)
	if err := r.start(ctx); err != nil {
		early.cancel()
		<-early.done
		return nil, err
	}
	err = early.finish()
	if errors.Is(err, errRefused) {
		return r.runAttachedLate(ctx, keys)
	}
	return r.afterStream(ctx, err)
}

// runAttachedLate is for runtimes that attach only to what runs. Without a
// terminal the output comes from the log then, which has it from the start. A
// terminal's cannot, because it is not made of lines; but where the container
// has ended before any of it came, the log has to do.
func (r *runner) runAttachedLate(ctx context.Context, keys []byte) (*runtimeapi.ContainerStatus, error) {
	if !r.flags.tty {
		input, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			// A container that has ended needs no input, and one whose input
			// broke shows it by what it does.
			_ = streams.Run(input, inputTarget(r.c, r.id), streams.Stdio{In: r.stdin})
		}()
		return r.followLog(ctx)
	}
	seen := &countingWriter{Writer: r.stdout}
	err := r.streamTo(ctx, seen, attachTarget(r.c, r.id, true, true), session{stdin: r.stdin, tty: true, detachKeys: keys})
	if !errors.Is(err, streams.ErrDetached) && !seen.any.Load() && !r.isRunning(ctx) {
		return r.followLog(ctx)
	}
	return r.afterStream(ctx, err)
}

// countingWriter remembers whether anything was written.
type countingWriter struct {
	io.Writer
	any atomic.Bool
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.any.Store(w.any.Load() || len(p) > 0)
	return w.Writer.Write(p)
}

// afterStream waits for the end of a container whose stream ended with err.
func (r *runner) afterStream(ctx context.Context, err error) (*runtimeapi.ContainerStatus, error) {
	if errors.Is(err, streams.ErrDetached) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("attach to %q: %w", r.container.Metadata.Name, err)
	}
	return waitExit(ctx, r.c, r.id)
}

func (r *runner) detachKeys() ([]byte, error) {
	if !r.flags.tty {
		return nil, nil
	}
	return streams.ParseDetachKeys(r.flags.detachKeys)
}

// earlyAttach is a stream opened before the container runs.
type earlyAttach struct {
	gate   *gate
	cancel context.CancelFunc
	done   chan error
}

var errRefused = errors.New("attach refused before the start")

// attachEarly opens the stream and returns when it stands, or has failed.
func (r *runner) attachEarly(ctx context.Context, keys []byte) *earlyAttach {
	ctx, cancel := context.WithCancel(ctx)
	e := &earlyAttach{gate: newGate(ctx, r.stdin), cancel: cancel, done: make(chan error, 1)}
	target := attachTarget(r.c, r.id, true, r.flags.tty)
	go func() {
		e.done <- r.stream(ctx, target, session{stdin: e.gate, tty: r.flags.tty, detachKeys: keys})
	}()
	select {
	case <-e.gate.asked:
		e.settle()
	case err := <-e.done:
		e.done <- err
	case <-ctx.Done():
	}
	return e
}

// The streams stand before the runtime has connected them to the container, and
// no protocol tells when it has. That takes it a fraction of this.
const attachSettle = 50 * time.Millisecond

func (e *earlyAttach) settle() {
	select {
	case err := <-e.done:
		e.done <- err
	case <-time.After(attachSettle):
	}
}

// finish lets the input through and waits for the end of the stream. It is
// errRefused if the stream failed while the container was not running: none of
// the input is lost then.
func (e *earlyAttach) finish() error {
	defer e.cancel()
	select {
	case err := <-e.done:
		if err != nil && !errors.Is(err, streams.ErrDetached) {
			return errRefused
		}
		return err
	default:
	}
	e.gate.open()
	return <-e.done
}

// gate is an input that is read only once it was opened, because what was read
// for a stream that fails would be lost for the next one.
type gate struct {
	ctx    context.Context
	in     io.Reader
	asked  chan struct{} // closed at the first Read: the stream stands
	opened chan struct{}
	once   sync.Once
}

func newGate(ctx context.Context, in io.Reader) *gate {
	return &gate{ctx: ctx, in: in, asked: make(chan struct{}), opened: make(chan struct{})}
}

func (g *gate) open() { close(g.opened) }

func (g *gate) Read(p []byte) (int, error) {
	g.once.Do(func() { close(g.asked) })
	select {
	case <-g.opened:
		return g.in.Read(p)
	case <-g.ctx.Done():
		return 0, io.EOF
	}
}

func (r *runner) leaveRunning() error {
	fmt.Fprintf(r.stderr, "\r\ndetached from %s, which runs on\n", r.container.Metadata.Name)
	if r.flags.remove {
		fmt.Fprintf(r.stderr, "--rm no longer applies: remove it with berth rm -f %s\n", r.container.Metadata.Name)
	}
	return nil
}

// finish gives back what the pod holds, all of it with --rm, and returns the
// container's exit code as berth's.
func (r *runner) finish(ctx context.Context, status *runtimeapi.ContainerStatus, err error) error {
	switch {
	case status == nil && r.isRunning(ctx):
		return client.WithHint(err, "the container runs on: berth attach "+r.container.Metadata.Name)
	case status == nil || r.flags.remove:
		err = errors.Join(err, r.undo.run(ctx))
	default:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		_, stopErr := r.c.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: r.podID})
		err = errors.Join(err, stopErr)
	}
	if err != nil {
		return err
	}
	return exitOf(status)
}

// isRunning keeps a container whose stream broke from being removed.
func (r *runner) isRunning(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := r.c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: r.id})
	return err == nil && resp.Status.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING
}

func exitOf(status *runtimeapi.ContainerStatus) error {
	switch {
	case status.ExitCode == 0:
		return nil
	case status.Reason == "OOMKilled":
		return &codeError{code: int(status.ExitCode), err: errors.New("the container was killed because it ran out of memory")}
	}
	return &codeError{code: int(status.ExitCode)}
}
