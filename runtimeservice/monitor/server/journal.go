package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
)

// journal makes the way from a pipe to a log exactly once: it tells the next
// monitor how far this one had come when it was killed. It is a file mapped into
// memory, as what a process has stored there outlives it, and costs no system call.
//
// Each worker that carries output has a slot.
//
//	idle ──> writing ──> discarding ──> idle
//
// One that was killed while writing has its log cut back to where it was: the
// output still is in the pipe. One that was killed while discarding has it in the
// log, and the question is whether the pipe still has it too. The answer is in
// landed, into which the kernel puts the first byte that it takes out of the pipe,
// and which holds another value before. A process that is killed ends between two
// system calls, never in the middle of such a read.
type journal struct {
	memory []byte
	// unfinished are the slots that a killed monitor has left amid its work.
	unfinished []*slot

	mu   sync.Mutex
	free []int
}

const (
	journalName = "journal"
	slotSize    = 256
	// slots bounds the workers that are journaled at a time; more of them carry
	// output all the same, and a kill may then repeat some.
	slots = 512
)

// Phases of a slot.
const (
	idle = iota
	writing
	discarding
)

// Offsets in a slot.
const (
	atPhase  = 0 // uint32
	atKind   = 4
	atFirst  = 5 // the byte that discarding takes out first
	atLanded = 6
	atIDLen  = 7
	atDev    = 8
	atIno    = 16
	atSize   = 24 // of the log before writing
	atTaken  = 32 // uint32, bytes to be taken out of the pipe
	atID     = 64
	maxID    = 128
)

// slot is a part of the journal; nil is one that takes no notes.
type slot struct {
	j     *journal
	index int
	b     []byte
}

func openJournal(dir string) (*journal, error) {
	path := filepath.Join(dir, journalName)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open journal", Path: path, Err: err}
	}
	defer unix.Close(fd)
	// With its space taken now, a full disk is no SIGBUS later.
	if err := unix.Fallocate(fd, 0, 0, slots*slotSize); err != nil {
		return nil, &os.PathError{Op: "allocate journal", Path: path, Err: err}
	}
	memory, err := unix.Mmap(fd, 0, slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "map journal", Path: path, Err: err}
	}
	j := &journal{memory: memory}
	for i := slots - 1; i >= 0; i-- {
		if s := j.slot(i); s.phase() == idle {
			j.free = append(j.free, i)
		} else {
			j.unfinished = append(j.unfinished, s)
		}
	}
	return j, nil
}

func (j *journal) slot(i int) *slot {
	return &slot{j: j, index: i, b: j.memory[i*slotSize : (i+1)*slotSize]}
}

// take returns a free slot, or nil.
func (j *journal) take() *slot {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.free) == 0 {
		return nil
	}
	i := j.free[len(j.free)-1]
	j.free = j.free[:len(j.free)-1]
	return j.slot(i)
}

// give returns a slot to the free ones.
func (s *slot) give() {
	if s == nil {
		return
	}
	s.setPhase(idle)
	s.j.mu.Lock()
	defer s.j.mu.Unlock()
	s.j.free = append(s.j.free, s.index)
}

func (s *slot) word() *uint32 { return (*uint32)(unsafe.Pointer(&s.b[atPhase])) }

func (s *slot) phase() uint32 { return atomic.LoadUint32(s.word()) }

// setPhase makes what was stored before it count.
func (s *slot) setPhase(phase uint32) { atomic.StoreUint32(s.word(), phase) }

// belong says whose output the slot is for; it is idle.
func (s *slot) belong(id string, kind logfile.Stream) {
	if s == nil {
		return
	}
	s.b[atKind] = byte(kind)
	s.b[atIDLen] = byte(copy(s.b[atID:atID+maxID], id))
}

func (s *slot) owner() (id string, kind logfile.Stream) {
	return string(s.b[atID : atID+min(int(s.b[atIDLen]), maxID)]), logfile.Stream(s.b[atKind])
}

// Writing implements logfile.Note.
func (s *slot) Writing(at logfile.Position) {
	binary.NativeEndian.PutUint64(s.b[atDev:], at.Dev)
	binary.NativeEndian.PutUint64(s.b[atIno:], at.Ino)
	binary.NativeEndian.PutUint64(s.b[atSize:], uint64(at.Size))
	s.setPhase(writing)
}

func (s *slot) position() logfile.Position {
	return logfile.Position{
		Dev:  binary.NativeEndian.Uint64(s.b[atDev:]),
		Ino:  binary.NativeEndian.Uint64(s.b[atIno:]),
		Size: int64(binary.NativeEndian.Uint64(s.b[atSize:])),
	}
}

// Written implements logfile.Note.
func (s *slot) Written(output []byte) {
	if len(output) == 0 {
		s.setPhase(idle)
		return
	}
	binary.NativeEndian.PutUint32(s.b[atTaken:], uint32(len(output)))
	s.b[atFirst], s.b[atLanded] = output[0], ^output[0]
	s.setPhase(discarding)
}

// undiscarded is how many bytes the pipe still has that the log has.
func (s *slot) undiscarded() int {
	if s.b[atLanded] == s.b[atFirst] {
		return 0
	}
	return int(binary.NativeEndian.Uint32(s.b[atTaken:]))
}

// discard takes n bytes out of a pipe that holds as many. With a slot the first
// goes into it.
func (s *slot) discard(fd, n int, buf []byte) error {
	for n > 0 {
		into := [][]byte{buf[:min(n, len(buf))]}
		if s != nil {
			into = [][]byte{s.b[atLanded : atLanded+1]}
			if n > 1 {
				into = append(into, buf[:min(n-1, len(buf))])
			}
		}
		m, err := unix.Readv(fd, into)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("readv", err)
		}
		if m == 0 {
			return errors.New("pipe has less than was looked at")
		}
		n -= m
	}
	if s != nil {
		s.setPhase(idle)
	}
	return nil
}

// recoverLogs finishes or takes back what a killed monitor had begun, where that
// needs no pipe; the rest waits for the pipe in the container. It is called once,
// before a client can hand pipes over.
func (s *Server) recoverLogs() {
	if s.scratches.journal == nil {
		return
	}
	for _, slot := range s.scratches.journal.unfinished {
		id, kind := slot.owner()
		c := s.get(id)
		switch {
		case c == nil:
		case slot.phase() == writing:
			if err := slot.position().Restore(c.rec.LogPath); err != nil {
				s.log.Error("restore log; output may be in it twice", "container", id, "error", err)
			}
		case slot.undiscarded() > 0:
			c.mu.Lock()
			c.unfinished[kind] = slot
			c.mu.Unlock()
			continue
		}
		slot.give()
	}
	s.scratches.journal.unfinished = nil
}

// finishDiscard takes out of the adopted pipe what the log has already.
func (s *stream) finishDiscard() error {
	s.c.mu.Lock()
	slot := s.c.unfinished[s.kind]
	s.c.unfinished[s.kind] = nil
	s.c.mu.Unlock()
	if slot == nil {
		return nil
	}
	defer slot.give()
	if s.tty {
		return nil
	}
	if err := slot.discard(s.fd, slot.undiscarded(), make([]byte, chunk)); err != nil {
		return fmt.Errorf("take output out of the pipe that is in the log: %w", err)
	}
	return nil
}
