package runtimeservice

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// drainTime is how long output is waited for once the process has ended:
	// what it left in the background can hold the pipe open for ever.
	drainTime = time.Second
	// pipeCapacity is what a pipe or a terminal can hold at most, by default.
	pipeCapacity = 64 << 10
	copyBuffer   = 32 << 10
)

// pump copies what comes out of a pipe or a terminal until its end. After
// drainAll it ends soon: with what is in the pipe then, but without waiting for who
// holds the other end.
type pump struct {
	from *os.File
	done chan struct{}
}

// startPump takes the file over. A failing writer ends the copying, not the
// reading: a process whose output nobody takes any more must not block.
func startPump(from *os.File, to io.Writer) *pump {
	p := &pump{from: from, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer p.from.Close()
		p.copy(to)
	}()
	return p
}

func (p *pump) copy(to io.Writer) {
	buf := make([]byte, copyBuffer)
	for {
		n, err := p.from.Read(buf)
		if n > 0 && to != nil {
			if _, failed := to.Write(buf[:n]); failed != nil {
				to = nil
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.copyRest(to, buf)
			return
		default: // io.EOF; EIO of a terminal nobody holds any more
			return
		}
	}
}

// copyRest copies what is there without waiting for more. What fits into a pipe
// bounds it: others can go on writing.
func (p *pump) copyRest(to io.Writer, buf []byte) {
	if to == nil || p.from.SetReadDeadline(time.Time{}) != nil {
		return
	}
	raw, err := p.from.SyscallConn()
	if err != nil {
		return
	}
	for copied := 0; copied < pipeCapacity; {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.Read(int(fd), buf)
			return true
		})
		if err != nil || n <= 0 {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		copied += n
	}
}

// drainAll makes the pumps end within drainTime and waits for that.
func drainAll(pumps []*pump) {
	deadline := time.Now().Add(drainTime)
	for _, p := range pumps {
		_ = p.from.SetReadDeadline(deadline) // an error says that it has ended
	}
	for _, p := range pumps {
		<-p.done
	}
}

// stopAll makes the pumps end now, without what is in the pipes. They are waited
// for, but not a writer that blocks: its client is being disconnected.
func stopAll(pumps []*pump) {
	now := time.Now()
	for _, p := range pumps {
		_ = p.from.SetReadDeadline(now)
	}
	patience := time.After(drainTime)
	for _, p := range pumps {
		select {
		case <-p.done:
		case <-patience:
			return
		}
	}
}

// pollable makes a file with the same open file that honours deadlines, and
// closes the given one.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate file descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make file descriptor non-blocking: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// capped keeps the first bytes of what is written to it, and takes the rest.
type capped struct {
	limit int
	data  []byte
}

func (c *capped) Write(p []byte) (int, error) {
	if room := c.limit - len(c.data); room > 0 {
		c.data = append(c.data, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// feed copies in to a pipe or a terminal until either ends. It is not waited
// for: in can stay open as long as its client likes.
func feed(to *os.File, in io.Reader, closeAfter bool) {
	go func() {
		_, _ = io.Copy(to, in)
		if closeAfter {
			_ = to.Close()
		}
	}()
}
