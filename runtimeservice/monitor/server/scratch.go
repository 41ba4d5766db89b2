package server

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// chunk is how much output is looked at in one go: the size of a pipe.
const chunk = 64 << 10

// scratch is what a worker needs to look at the head of a pipe without taking
// it: a second pipe to tee(2) into, and a buffer; and a slot of the journal. A few
// are kept.
type scratch struct {
	r, w int
	buf  []byte
	slot *slot // nil if there was none left
}

type scratches struct {
	journal *journal // nil if it could not be opened

	mu   sync.Mutex
	free []*scratch
}

const keptScratches = 2

func (s *scratches) get() (*scratch, error) {
	s.mu.Lock()
	if n := len(s.free); n > 0 {
		x := s.free[n-1]
		s.free = s.free[:n-1]
		s.mu.Unlock()
		return x, nil
	}
	s.mu.Unlock()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	return &scratch{r: p[0], w: p[1], buf: make([]byte, chunk), slot: s.journal.take()}, nil
}

func (s *scratches) put(x *scratch) {
	s.mu.Lock()
	if len(s.free) < keptScratches {
		s.free = append(s.free, x)
		x = nil
	}
	s.mu.Unlock()
	if x != nil {
		x.close()
	}
}

func (x *scratch) close() {
	x.slot.give()
	unix.Close(x.r)
	unix.Close(x.w)
}

// peek returns a copy of the head of a pipe, which stays in there. It is
// EAGAIN for an empty one and io.EOF for an empty one without writers.
func (x *scratch) peek(fd int) ([]byte, error) {
	var n int64
	var err error
	for {
		n, err = unix.Tee(fd, x.w, chunk, unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	got := 0
	for got < int(n) {
		m, err := unix.Read(x.r, x.buf[got:n])
		if err == unix.EINTR {
			continue
		}
		if err != nil || m == 0 {
			return nil, os.NewSyscallError("read", err)
		}
		got += m
	}
	return x.buf[:n], nil
}
