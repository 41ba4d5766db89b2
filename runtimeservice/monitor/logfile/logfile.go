// Package logfile writes container output in the CRI log format: one entry per
// line of the form "<RFC3339Nano time> <stream> <tag> <text>", where the tag is
// F for the end of a line and P for a piece of one that goes on.
package logfile

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Stream says where output comes from.
type Stream uint8

// The two streams; a terminal's output is Stdout.
const (
	Stdout Stream = iota
	Stderr
)

func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

const (
	// MaxLine is the longest text of one entry in bytes.
	MaxLine = 16 << 10
	// flushSize bounds how much formatted text is gathered for one write.
	flushSize = 64 << 10
	// mode lets the group of the log directory read, as log shippers expect.
	mode = 0o640
)

// Writer appends entries to a log file. Its methods may be called at the same
// time; an entry is never torn between two files or by another entry.
type Writer struct {
	path string

	mu sync.Mutex
	fd int
	// torn says that the file does not end with a newline, because a write
	// was cut short.
	torn bool
	last time.Time
}

// Open opens or makes the log file. It refuses a symbolic link as the last
// element of the path. A file that ends amid an entry loses that piece: its
// writer was killed and the text is still where it came from.
func Open(path string) (*Writer, error) {
	w := &Writer{path: path, fd: -1}
	fd, torn, err := open(path)
	if err != nil {
		return nil, err
	}
	w.fd, w.torn = fd, torn
	if torn {
		w.torn = !dropTorn(fd)
	}
	return w, nil
}

// dropTorn cuts off what follows the last newline, and reports whether it could.
func dropTorn(fd int) bool {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false
	}
	tail := make([]byte, MaxLine+128)
	from := max(0, st.Size-int64(len(tail)))
	n, err := unix.Pread(fd, tail, from)
	if err != nil {
		return false
	}
	last := bytes.LastIndexByte(tail[:n], '\n')
	if last < 0 && from > 0 {
		return false
	}
	return unix.Ftruncate(fd, from+int64(last)+1) == nil
}

func open(path string) (fd int, torn bool, err error) {
	fd, err = unix.Open(path, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, mode)
	if err != nil {
		return -1, false, &os.PathError{Op: "open log file", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, false, &os.PathError{Op: "stat log file", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, false, fmt.Errorf("open log file %s: not a regular file", path)
	}
	var last [1]byte
	if st.Size > 0 {
		n, err := unix.Pread(fd, last[:], st.Size-1)
		torn = err == nil && n == 1 && last[0] != '\n'
	}
	return fd, torn, nil
}

// Reopen begins a new file at the same path, for log rotation. Every entry is
// either in the old file or in the new one. On error the old file stays in use.
func (w *Writer) Reopen() error {
	fd, torn, err := open(w.path)
	if err != nil {
		return err
	}
	w.mu.Lock()
	old := w.fd
	w.fd, w.torn = fd, torn
	w.mu.Unlock()
	if old >= 0 {
		unix.Close(old)
	}
	return nil
}

// Close closes the file; later writes are errors.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return nil
	}
	err := unix.Close(w.fd)
	w.fd = -1
	return err
}

// Append writes the output of a stream as entries and returns how many bytes
// of it are dealt with. What is left over is the beginning of a line; up to hold
// bytes of one are left (at most MaxLine), and none with end, which makes the
// last entry a full one even without a newline. The caller passes the rest
// again, with what follows.
//
// An error means that entries are missing in the file; their bytes count as
// dealt with, because a full disk must not stop a container.
func (w *Writer) Append(stream Stream, output []byte, hold int, end bool) (int, error) {
	return w.AppendNoted(stream, output, hold, end, nil)
}

// AppendNoted is Append for a caller who may be killed at any instant and wants to
// know later how far it had come.
func (w *Writer) AppendNoted(stream Stream, output []byte, hold int, end bool, note Note) (taken int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if note != nil {
		at, err := w.position()
		if err == nil {
			note.Writing(at)
			defer func() { note.Written(output[:taken]) }()
		}
	}
	return w.append(stream, output, hold, end)
}

func (w *Writer) append(stream Stream, output []byte, hold int, end bool) (int, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	e := encoder{w: w, out: (*buf)[:0]}
	e.prefix(stream)
	rest := output
	for len(rest) > 0 {
		line, after, full := bytes.Cut(rest, newline)
		switch {
		case len(line) > MaxLine:
			e.entry(line[:MaxLine], tagPartial)
			rest = rest[MaxLine:]
		case full:
			e.entry(line, tagFull)
			rest = after
		case end:
			e.entry(line, tagFull)
			rest = nil
		case len(line) > hold:
			e.entry(line, tagPartial)
			rest = nil
		default:
			e.flush()
			return len(output) - len(rest), e.err
		}
	}
	e.flush()
	return len(output), e.err
}

const (
	tagFull    = 'F'
	tagPartial = 'P'
)

var (
	newline = []byte{'\n'}
	buffers = sync.Pool{New: func() any { b := make([]byte, 0, flushSize+MaxLine+128); return &b }}
)

// encoder gathers the entries of one Append, which have one time.
type encoder struct {
	w    *Writer
	head []byte
	out  []byte
	err  error
	mem  [64]byte
}

func (e *encoder) prefix(stream Stream) {
	now := time.Now().UTC()
	if now.Before(e.w.last) {
		now = e.w.last
	}
	e.w.last = now
	e.head = now.AppendFormat(e.mem[:0], time.RFC3339Nano)
	e.head = append(e.head, ' ')
	e.head = append(e.head, stream.String()...)
	e.head = append(e.head, ' ')
}

func (e *encoder) entry(text []byte, tag byte) {
	e.out = append(e.out, e.head...)
	e.out = append(e.out, tag, ' ')
	e.out = append(e.out, text...)
	e.out = append(e.out, '\n')
	if len(e.out) >= flushSize {
		e.flush()
	}
}

func (e *encoder) flush() {
	if len(e.out) > 0 {
		if err := e.w.write(e.out); err != nil && e.err == nil {
			e.err = err
		}
	}
	e.out = e.out[:0]
}

// write appends whole entries. After a write that was cut short the next one
// begins with a newline, so that only that one entry is damaged.
func (w *Writer) write(b []byte) error {
	if w.torn {
		if _, err := unix.Write(w.fd, newline); err != nil {
			return &os.PathError{Op: "write log file", Path: w.path, Err: err}
		}
		w.torn = false
	}
	for len(b) > 0 {
		n, err := unix.Write(w.fd, b)
		if n > 0 {
			w.torn = b[n-1] != '\n'
			b = b[n:]
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "write log file", Path: w.path, Err: err}
		}
	}
	return nil
}
