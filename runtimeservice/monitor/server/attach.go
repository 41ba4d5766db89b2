package server

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

const (
	// attachBacklog is how much output may wait for a client that reads slowly
	// before the client is cut off.
	attachBacklog = 1 << 20
	// attachFlush is how long the rest may take after the streams have ended.
	attachFlush = 10 * time.Second
	// inputBuffer is how much input is forwarded at a time.
	inputBuffer = 16 << 10
)

// past is a deadline that makes reads and writes under way return.
var past = time.Unix(1, 0)

// attachment is one client of a container's streams. Output waits in a queue of
// its own, so a client never holds up the container or another client.
type attachment struct {
	c *container
	// stdin is nil without input; out is by logfile.Stream, with nil entries.
	stdin *os.File
	out   [2]*os.File
	// done is closed when everything has ended; the client watches its end.
	done *os.File
	// to is a duplicate of the container's input.
	to *os.File
	// input was read from the client and not yet written.
	input []byte

	closing sync.Once
	// watches tell when the client has closed its ends.
	watches []watch
	// workers are the two goroutines that carry input and output.
	workers sync.WaitGroup
	wake    chan struct{}

	mu     sync.Mutex
	queue  []piece
	queued int
	ending bool
	paused bool // for an upgrade
}

type watch struct {
	fd    int
	token token
}

type piece struct {
	stream logfile.Stream
	data   []byte
}

// attach connects a client to the streams of a running container. It takes the
// descriptors over.
func (s *Server) attach(req *protocol.Attach, fds []int) error {
	a := newAttachment(*req, fds)
	c, err := s.find(req.ContainerID)
	if err != nil {
		a.closeFiles()
		return fmt.Errorf("attach to container %q: %w", req.ContainerID, err)
	}
	c.serveClients([]*attachment{a})
	return nil
}

// newAttachments makes the clients that a start brings. It takes the descriptors
// over.
func newAttachments(reqs []protocol.Attach, fds []int) []*attachment {
	clients := make([]*attachment, len(reqs))
	for i, req := range reqs {
		n := req.Count()
		clients[i] = newAttachment(req, fds[:n])
		fds = fds[n:]
	}
	return clients
}

func newAttachment(req protocol.Attach, fds []int) *attachment {
	a := &attachment{wake: make(chan struct{}, 1)}
	take := func(name string, present bool) *os.File {
		if !present {
			return nil
		}
		fd := fds[0]
		fds = fds[1:]
		return pollable(fd, name)
	}
	a.stdin = take("stdin", req.Stdin)
	a.out[logfile.Stdout] = take("stdout", req.Stdout)
	a.out[logfile.Stderr] = take("stderr", req.Stderr)
	a.done = take("done", true)
	return a
}

// serveClients gives clients what the container writes from now on.
func (c *container) serveClients(clients []*attachment) {
	for _, a := range clients {
		a.c = c
		c.admit(a)
		a.carry()
	}
}

func pollable(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// admit adds a client. One that comes after the streams have ended gets nothing
// but the end.
func (c *container) admit(a *attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clients == nil {
		c.clients = map[*attachment]struct{}{}
	}
	c.clients[a] = struct{}{}
	if c.open == 0 || a.ending {
		a.ending = true
		a.kick()
		return
	}
	c.attached = append(c.attached, a)
}

// carry starts the goroutines of a client.
func (a *attachment) carry() {
	for _, f := range a.out {
		a.watch(fileDescriptor(f))
	}
	a.workers.Add(1)
	go a.carryOutput()
	if a.stdin != nil {
		a.workers.Add(1)
		go a.carryInput()
	}
}

// watch notices a client that is gone although there is nothing to write.
func (a *attachment) watch(fd int) {
	if fd < 0 {
		return
	}
	t, err := a.c.server.poller.add(fd, func() {
		if a.isGone() {
			go a.cut()
		}
	})
	if err != nil {
		a.c.server.log.Error("watch attached client", "container", a.c.id, "error", err)
		return
	}
	a.watches = append(a.watches, watch{fd, t})
}

// sessions returns the clients, also those that only wait for what is queued.
func (c *container) sessions() []*attachment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.clients))
}

// isGone reports whether the client has closed all its ends for output.
func (a *attachment) isGone() bool {
	for _, f := range a.out {
		p := []unix.PollFd{{Fd: int32(fileDescriptor(f))}}
		if p[0].Fd < 0 {
			continue
		}
		if _, err := unix.Poll(p, 0); err == nil && p[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0 {
			return false
		}
	}
	return true
}

// cut ends the session at once.
func (a *attachment) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue, a.queued, a.ending = nil, 0, true
	a.setDeadline(past)
	a.kick()
}

// broadcast gives output to the attached clients.
func (c *container) broadcast(stream logfile.Stream, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.attached[:0]
	for _, a := range c.attached {
		if a.offer(stream, data) {
			kept = append(kept, a)
		}
	}
	clear(c.attached[len(kept):])
	c.attached = kept
}

// offer queues output, or cuts the client off if too much waits.
func (a *attachment) offer(stream logfile.Stream, data []byte) bool {
	if a.out[stream] == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.kick()
	if a.queued+len(data) > attachBacklog {
		a.queue, a.queued, a.ending = nil, 0, true
		a.setDeadline(past)
		return false
	}
	a.queue = append(a.queue, piece{stream, append([]byte(nil), data...)})
	a.queued += len(data)
	return true
}

func (a *attachment) kick() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// finish ends the session when what waits has been written.
func (a *attachment) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ending = true
	deadline := time.Now().Add(attachFlush)
	for _, f := range a.out {
		if f != nil {
			_ = f.SetWriteDeadline(deadline)
		}
	}
	a.kick()
}

func (a *attachment) setDeadline(t time.Time) {
	for _, f := range []*os.File{a.stdin, a.out[0], a.out[1]} {
		if f != nil {
			_ = f.SetDeadline(t)
		}
	}
}

// carryOutput writes the queue until the session ends.
func (a *attachment) carryOutput() {
	defer a.workers.Done()
	for range a.wake {
		if a.flush() {
			continue
		}
		if !a.isPaused() {
			a.leave()
			a.closeFiles()
		}
		return
	}
}

// flush writes what is queued and reports whether there may be more later.
func (a *attachment) flush() bool {
	for {
		p, ok, more := a.next()
		if !ok {
			return more
		}
		n, err := a.out[p.stream].Write(p.data)
		if errors.Is(err, unix.EPIPE) && !a.isGone() {
			continue // one output is closed, the other is not
		}
		if err != nil {
			a.mu.Lock()
			p.data = p.data[n:]
			a.queue = append([]piece{p}, a.queue...)
			a.queued += len(p.data)
			a.mu.Unlock()
			return false
		}
	}
}

func (a *attachment) next() (p piece, ok, more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.paused {
		return p, false, false
	}
	if len(a.queue) == 0 {
		a.queue = nil
		return p, false, !a.ending
	}
	p = a.queue[0]
	a.queue = a.queue[1:]
	a.queued -= len(p.data)
	return p, true, true
}

func (a *attachment) isPaused() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.paused
}

// leave removes a client that is gone.
func (a *attachment) leave() {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	delete(a.c.clients, a)
	if i := slices.Index(a.c.attached, a); i >= 0 {
		a.c.attached = slices.Delete(a.c.attached, i, i+1)
	}
}

func (a *attachment) closeFiles() {
	a.closing.Do(func() {
		for _, w := range a.watches {
			a.c.server.poller.remove(w.fd, w.token)
		}
		for _, f := range []*os.File{a.stdin, a.out[0], a.out[1], a.done} {
			if f != nil {
				f.Close()
			}
		}
	})
}

// carryInput forwards the client's input until it ends. What the container does
// not take is dropped, so that the client's end is noticed all the same.
func (a *attachment) carryInput() {
	defer a.workers.Done()
	a.openInput()
	ended := a.forward()
	if a.to != nil {
		a.to.Close()
	}
	if !ended {
		return
	}
	a.c.mu.Lock()
	once := a.c.rec.StdinOnce
	a.c.mu.Unlock()
	if once {
		a.c.closeStdin()
	}
	if a.out[0] == nil && a.out[1] == nil {
		a.cut()
	}
}

func (a *attachment) openInput() {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	if a.c.stdin < 0 {
		return
	}
	if fd, err := unix.FcntlInt(uintptr(a.c.stdin), unix.F_DUPFD_CLOEXEC, 3); err == nil {
		a.mu.Lock()
		a.to = pollable(fd, "stdin")
		a.mu.Unlock()
	}
}

// forward reports whether the client has ended its input, and not the
// container or an upgrade.
func (a *attachment) forward() bool {
	buf := make([]byte, inputBuffer)
	for {
		if len(a.input) > 0 && a.to != nil {
			n, err := a.to.Write(a.input)
			a.input = a.input[n:]
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return false
			}
		}
		a.input = nil
		n, err := a.stdin.Read(buf)
		if err != nil || n == 0 {
			return errors.Is(err, io.EOF)
		}
		a.input = buf[:n]
	}
}

// pause stops the goroutines for an upgrade, with what they have not yet
// written kept in input and queue.
func (a *attachment) pause() {
	a.mu.Lock()
	a.paused = true
	a.setDeadline(past)
	if a.to != nil {
		_ = a.to.SetDeadline(past)
	}
	a.kick()
	a.mu.Unlock()
	a.workers.Wait()
}
