package crilog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// How long to wait for a notification before looking anyway: events may
	// be dropped, and some file systems send none.
	pollInterval = 250 * time.Millisecond
	// After a rotation the writer may still finish a write to the old file,
	// and after an exit the last bytes may still be on their way to the file.
	settleInterval = 50 * time.Millisecond
)

// Options says what to read of a log.
type Options struct {
	Tail   int  // lines to begin with; negative is all
	Follow bool // go on until Done is closed and all of the file is read
	// Done is closed when the container has ended: nothing is written then.
	Done <-chan struct{}
}

// Read prints the log at path. With Follow it waits for a file that does not
// exist yet, goes on in the new file after a rotation without losing or
// repeating a line, and begins again when the file was truncated in place. It
// returns nil when ctx ends.
func Read(ctx context.Context, path string, p *Printer, opts Options) error {
	r := &reader{path: path, printer: p, opts: opts}
	defer r.close()
	err := r.open(opts.Tail)
	if err != nil && !(opts.Follow && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	if !opts.Follow {
		return r.drain()
	}
	wake, stop := watch(path)
	defer stop()
	return r.follow(ctx, wake)
}

// watch reports changes in the folder of path; where that cannot be had, the
// caller's own poll has to do.
func watch(path string) (<-chan fsnotify.Event, func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, func() {}
	}
	if err := w.Add(filepath.Dir(path)); err != nil {
		w.Close()
		return nil, func() {}
	}
	return w.Events, func() { w.Close() }
}

type reader struct {
	path    string
	printer *Printer
	opts    Options

	file   *os.File
	buf    *bufio.Reader
	offset int64  // of what was read from file
	rest   []byte // a line whose end is not written yet
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

func (r *reader) open(tail int) error {
	f, err := os.Open(r.path)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	offset := int64(0)
	if tail >= 0 {
		info, err := f.Stat()
		if err == nil {
			offset, err = TailOffset(f, info.Size(), tail)
		}
		if err != nil {
			f.Close()
			return err
		}
	}
	r.close()
	r.file = f
	r.rest = nil
	return r.seek(offset)
}

func (r *reader) seek(offset int64) error {
	if _, err := r.file.Seek(offset, io.SeekStart); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	r.buf, r.offset = bufio.NewReaderSize(r.file, blockSize), offset
	return nil
}

// drain prints every whole line there is. What follows the last line feed is
// kept for the next call, or printed if there will be none.
func (r *reader) drain() error {
	if r.file == nil {
		return nil
	}
	for {
		part, err := r.buf.ReadSlice('\n')
		r.offset += int64(len(part))
		r.rest = append(r.rest, part...)
		switch {
		case err == nil:
			if err := r.printer.Print(r.rest); err != nil {
				return fmt.Errorf("print log: %w", err)
			}
			r.rest = r.rest[:0]
		case err == io.EOF:
			if !r.opts.Follow {
				return r.flush()
			}
			return nil
		case err != bufio.ErrBufferFull:
			return fmt.Errorf("read log: %w", err)
		}
	}
}

// flush prints a last line that has no line feed, as a power loss leaves it.
func (r *reader) flush() error {
	if len(r.rest) == 0 {
		return nil
	}
	err := r.printer.Print(r.rest)
	r.rest = nil
	return err
}

func (r *reader) follow(ctx context.Context, wake <-chan fsnotify.Event) error {
	for {
		ended := closed(r.opts.Done)
		if err := r.drain(); err != nil {
			return err
		}
		moved, err := r.moved()
		if err != nil {
			return err
		}
		switch {
		case moved:
			if err := r.reopen(ctx); err != nil {
				return err
			}
			continue
		case ended:
			pause(ctx, settleInterval)
			if err := r.drain(); err != nil {
				return err
			}
			return r.flush()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.opts.Done:
		case <-wake:
		case <-time.After(pollInterval):
		}
	}
}

// moved tells whether path names another file than the open one, or one that
// was truncated.
func (r *reader) moved() (bool, error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		// Between the two steps of a rotation, or removed with its
		// container, which Done will say.
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("follow log: %w", err)
	}
	if r.file == nil {
		return true, nil
	}
	open, err := r.file.Stat()
	if err != nil {
		return false, fmt.Errorf("follow log: %w", err)
	}
	return !os.SameFile(now, open) || open.Size() < r.offset, nil
}

// reopen reads what is left of the old file and goes on with the new one.
func (r *reader) reopen(ctx context.Context) error {
	if r.file != nil {
		pause(ctx, settleInterval)
		if err := r.drain(); err != nil {
			return err
		}
	}
	err := r.open(-1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
