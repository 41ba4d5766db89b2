package server

import (
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
)

// stream carries one output of a container to its log and to attached clients.
//
// Output that comes through a pipe is copied to the log first and taken out of
// the pipe then, and the beginning of a line stays in there until the line
// ends. So the monitor may be killed at any instant and the next one finds in
// the pipe what is not in the log; and a quiet container costs no buffer.
// A terminal cannot be looked at in that way: there the beginning of a line is
// held in memory while more comes, and is an entry of its own then.
type stream struct {
	worker
	c    *container
	kind logfile.Stream
	tty  bool

	mu    sync.Mutex
	fd    int // -1 when ended
	token token
	// seen counts the bytes at the head of the pipe that attached clients
	// have got already.
	seen int
	// partial is the beginning of a line of a terminal.
	partial []byte
	// complained is when a log error was last reported.
	complained time.Time
}

// watch begins to carry output.
func (s *stream) watch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	t, err := s.c.server.poller.add(s.fd, func() { s.kick(s.drain) })
	s.token = t
	return err
}

// drain carries what there is.
func (s *stream) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	var err error
	if s.tty {
		err = s.drainTerminal()
	} else {
		err = s.drainPipe()
	}
	if err == nil || errors.Is(err, unix.EAGAIN) {
		return
	}
	if !errors.Is(err, io.EOF) {
		s.c.server.log.Error("read output of container", "container", s.c.id, "stream", s.kind, "error", err)
	}
	s.end()
}

// end is called with mu held.
func (s *stream) end() {
	s.c.server.poller.remove(s.fd, s.token)
	unix.Close(s.fd)
	s.fd, s.token, s.partial = -1, 0, nil
	s.c.streamEnded()
}

// close ends the stream with what is in it carried.
func (s *stream) close() {
	s.drain()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		s.flushPartial()
		s.end()
	}
}

func (s *stream) drainPipe() error {
	pool := s.c.server.scratches
	x, err := pool.get()
	if err != nil {
		return err
	}
	defer pool.put(x)
	x.slot.belong(s.c.id, s.kind)
	for {
		data, err := x.peek(s.fd)
		if err != nil {
			return err
		}
		if len(data) > s.seen {
			s.c.broadcast(s.kind, data[s.seen:])
			s.seen = len(data)
		}
		taken := s.write(data, s.hold(), s.complete(len(data)), x.slot)
		if taken == 0 {
			return nil
		}
		s.seen -= taken
		if err := x.slot.discard(s.fd, taken, x.buf); err != nil {
			return err
		}
	}
}

// hold returns how long the beginning of a line may be that stays in the pipe;
// a container can shrink its pipe, and must not fill it up that way.
func (s *stream) hold() int {
	size, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return 0
	}
	return min(logfile.MaxLine, size/4)
}

// complete reports whether n bytes are all that will ever come.
func (s *stream) complete(n int) bool {
	p := []unix.PollFd{{Fd: int32(s.fd)}}
	if _, err := unix.Poll(p, 0); err != nil || p[0].Revents&unix.POLLHUP == 0 {
		return false
	}
	left, err := unix.IoctlGetInt(s.fd, unix.TIOCINQ)
	return err == nil && left == n
}

func (s *stream) drainTerminal() error {
	x, err := s.c.server.scratches.get()
	if err != nil {
		return err
	}
	defer s.c.server.scratches.put(x)
	for {
		n, err := unix.Read(s.fd, x.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EIO || err == nil && n == 0:
			// Every slave side is closed.
			s.flushPartial()
			return io.EOF
		case err == unix.EAGAIN:
			// A prompt, for example: held here it would be lost in a kill.
			s.partial = s.partial[s.write(s.partial, 0, false, nil):]
			return err
		case err != nil:
			return err
		}
		data := x.buf[:n]
		s.c.broadcast(s.kind, data)
		if len(s.partial) > 0 {
			data = append(s.partial, data...)
		}
		taken := s.write(data, logfile.MaxLine, false, nil)
		s.partial = append([]byte(nil), data[taken:]...)
	}
}

func (s *stream) flushPartial() {
	if len(s.partial) > 0 {
		s.write(s.partial, 0, true, nil)
		s.partial = nil
	}
}

// write puts output into the log and returns how much of it is dealt with. A
// full disk costs log entries, it does not stop the container.
func (s *stream) write(data []byte, hold int, end bool, notes *slot) int {
	if s.c.log == nil {
		return len(data)
	}
	var note logfile.Note
	if notes != nil {
		note = notes
	}
	taken, err := s.c.log.AppendNoted(s.kind, data, hold, end, note)
	if err != nil && time.Since(s.complained) > time.Minute {
		s.complained = time.Now()
		s.c.server.log.Error("write log of container", "container", s.c.id, "error", err)
	}
	return taken
}
