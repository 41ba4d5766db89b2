package layer

import (
	"archive/tar"
	"errors"
	"os"
	"runtime"
	"sync"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"golang.org/x/sys/unix"
)

const (
	// maxFileWriters bounds the batches of one layer that are finished side by side.
	// Each holds a chunk.
	maxFileWriters = 8
	// maxBatch bounds the files of a batch, each of which holds a descriptor.
	maxBatch = 32
)

// newFile is a file that has its name and not yet all of its content and
// attributes.
type newFile struct {
	fd     int
	hdr    *tar.Header
	offset int64 // where tail belongs
	tail   []byte
}

// finish is describe and close, for a file that has all of its content.
func (f newFile) finish() error { return errors.Join(f.describe(), unix.Close(f.fd)) }

// describe writes the tail, and sets owner, mode, attributes and times.
func (f newFile) describe() error {
	err := failpoint.Hit("layer/file")
	if err == nil {
		err = pwriteAll(f.fd, f.tail, f.offset)
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: f.hdr.Name, Err: err}
	}
	if err := setOwnerModeXattrs(f.fd, f.hdr); err != nil {
		return err
	}
	return setTimes(f.fd, "", f.hdr.ModTime)
}

// batch is files that are finished by the same hands: to pass on a small one costs
// as much as a system call. Their tails lie in one chunk.
type batch struct {
	files []newFile
	tails *chunk
	drop  bool // out of the page cache
}

// finish returns the first error, after it has closed all files.
func (b *batch) finish() error {
	err := b.write()
	for _, f := range b.files {
		// A file system may tell of a full disk only now.
		if cerr := unix.Close(f.fd); err == nil && cerr != nil {
			err = &os.PathError{Op: "close", Path: f.hdr.Name, Err: cerr}
		}
	}
	b.tails.release()
	return err
}

func (b *batch) write() error {
	for _, f := range b.files {
		if err := f.describe(); err != nil {
			return err
		}
	}
	if !b.drop {
		return nil
	}
	for _, f := range b.files {
		if err := startWriting(f.fd, 0, 0); err != nil {
			return &os.PathError{Op: "write", Path: f.hdr.Name, Err: err}
		}
	}
	for _, f := range b.files {
		if err := drop(f.fd, 0, 0); err != nil {
			return &os.PathError{Op: "write", Path: f.hdr.Name, Err: err}
		}
	}
	return nil
}

// fileWriters finish files on other cores while the caller goes on with the
// archive. Only names need the archive's order: what happens to a file's inode
// does not show in its directory. The zero value is ready; it is for one caller.
type fileWriters struct {
	// drop says that what is written from now on leaves the page cache.
	drop  bool
	next  *batch // being filled; nil for an empty one
	wg    sync.WaitGroup
	slots chan struct{}

	mu  sync.Mutex
	err error // the first
}

// space returns room for n bytes, at most chunkSize, which are the tail of the file
// that is added next, or the caller's until then.
func (w *fileWriters) space(n int64) []byte {
	if w.next != nil && w.next.tails.n+int(n) > chunkSize {
		w.pass()
	}
	if w.next == nil {
		w.next = &batch{tails: newChunk(1)}
	}
	at := w.next.tails.n
	return w.next.tails.buf[at : at+int(n)]
}

// add finishes f, soon, whose tail is in what space returned. It returns the error of
// an earlier file, if there is.
func (w *fileWriters) add(f newFile) error {
	w.next.files = append(w.next.files, f)
	w.next.tails.n += len(f.tail)
	if len(w.next.files) == maxBatch {
		w.pass()
	}
	return w.failed()
}

// pass has the batch finished that was being filled.
func (w *fileWriters) pass() {
	b := w.next
	b.drop, w.next = w.drop, nil
	if w.slots == nil {
		w.slots = make(chan struct{}, min(maxFileWriters, runtime.GOMAXPROCS(0)))
	}
	select {
	case w.slots <- struct{}{}:
		w.wg.Go(func() {
			defer func() { <-w.slots }()
			w.note(b.finish())
		})
	default: // all are busy: so is the caller
		w.note(b.finish())
	}
}

func (w *fileWriters) note(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

func (w *fileWriters) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// wait returns when all files are finished, with the first error of any.
func (w *fileWriters) wait() error {
	if w.next != nil {
		w.pass()
	}
	w.wg.Wait()
	return w.failed()
}
