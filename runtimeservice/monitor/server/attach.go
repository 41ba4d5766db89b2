package server

import (
	"errors"
	"fmt"
	"io"
	"os"
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
)

// attachment is one client of a container's streams. Output waits in a queue of
// its own, so a client never holds up the container or another client.
type attachment struct {
	c     *container
	stdin *os.File
	// out is by logfile.Stream; an entry may be nil.
	out [2]*os.File
	// done is closed when everything has ended; the client watches its end.
	done *os.File
	once sync.Once

	mu     sync.Mutex
	queue  []piece
	queued int
	ending bool
	wake   chan struct{}
}

type piece struct {
	stream logfile.Stream
	data   []byte
}

// attach connects a client to the streams of a running container. It takes the
// descriptors over.
func (s *Server) attach(req *protocol.Attach, fds []int) error {
	a := &attachment{wake: make(chan struct{}, 1)}
	take := func(name string, present bool) *os.File {
		if !present {
			return nil
		}
		fd := fds[0]
		fds = fds[1:]
		_ = unix.SetNonblock(fd, true)
		return os.NewFile(uintptr(fd), name)
	}
	a.stdin = take("stdin", req.Stdin)
	a.out[logfile.Stdout] = take("stdout", req.Stdout)
	a.out[logfile.Stderr] = take("stderr", req.Stderr)
	a.done = take("done", true)
	c, err := s.find(req.ContainerID)
	if err == nil {
		a.c = c
		err = c.admit(a)
	}
	if err != nil {
		a.closeFiles()
		return fmt.Errorf("attach to container %q: %w", req.ContainerID, err)
	}
	go a.carryOutput()
	if a.stdin != nil {
		go a.carryInput()
	}
	return nil
}

// admit adds a client. One that comes after the streams have ended gets nothing
// but the end.
func (c *container) admit(a *attachment) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == 0 {
		a.ending = true
		a.kick()
		return nil
	}
	c.attached = append(c.attached, a)
	return nil
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
	if a.queued+len(data) > attachBacklog {
		a.queue, a.ending = nil, true
		a.closeLater()
		a.kick()
		return false
	}
	a.queue = append(a.queue, piece{stream, append([]byte(nil), data...)})
	a.queued += len(data)
	a.kick()
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

// closeLater makes writes and reads under way return.
func (a *attachment) closeLater() {
	for _, f := range append(a.out[:], a.stdin) {
		if f != nil {
			_ = f.SetDeadline(time.Unix(1, 0))
		}
	}
}

// carryOutput writes the queue until the session ends.
func (a *attachment) carryOutput() {
	defer a.closeFiles()
	for range a.wake {
		for {
			p, ok, ending := a.next()
			if !ok {
				if ending {
					return
				}
				break
			}
			if _, err := a.out[p.stream].Write(p.data); err != nil {
				a.leave()
				return
			}
		}
	}
}

func (a *attachment) next() (p piece, ok, ending bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		a.queue = nil
		return p, false, a.ending
	}
	p = a.queue[0]
	a.queue = a.queue[1:]
	a.queued -= len(p.data)
	return p, true, a.ending
}

// leave removes a client that is gone.
func (a *attachment) leave() {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	for i, b := range a.c.attached {
		if a == b {
			a.c.attached = append(a.c.attached[:i], a.c.attached[i+1:]...)
			return
		}
	}
}

func (a *attachment) closeFiles() {
	a.once.Do(func() {
		for _, f := range []*os.File{a.stdin, a.out[0], a.out[1], a.done} {
			if f != nil {
				f.Close()
			}
		}
	})
}

// inputBuffer is how much input is forwarded at a time.
const inputBuffer = 16 << 10

// carryInput forwards the client's input until it or the container ends it.
func (a *attachment) carryInput() {
	c := a.c
	c.mu.Lock()
	fd, err := unix.FcntlInt(uintptr(c.stdin), unix.F_DUPFD_CLOEXEC, 3)
	once := c.rec.StdinOnce
	c.mu.Unlock()
	if err == nil {
		to := os.NewFile(uintptr(fd), "stdin")
		_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{a.stdin}, make([]byte, inputBuffer))
		to.Close()
	} else {
		// The container takes no input; read on, so that the client's end
		// is noticed.
		_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{a.stdin}, make([]byte, inputBuffer))
	}
	if once && !errors.Is(err, os.ErrClosed) {
		c.closeStdin()
	}
}
