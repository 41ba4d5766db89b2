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

// maxFileWriters bounds the files of one layer that are finished side by side.
// Each holds a chunk and a descriptor.
const maxFileWriters = 8

// newFile is a file that has its name and not yet all of its content and
// attributes.
type newFile struct {
	fd     int
	hdr    *tar.Header
	offset int64  // where tail belongs
	tail   *chunk // may be nil
}

// finish writes the tail, sets owner, mode, attributes and times, and closes.
func (f newFile) finish() error {
	err := failpoint.Hit("layer/file")
	if f.tail != nil {
		if err == nil {
			err = pwriteAll(f.fd, f.tail.bytes(), f.offset)
		}
		f.tail.release()
		if err != nil {
			err = &os.PathError{Op: "write", Path: f.hdr.Name, Err: err}
		}
	}
	if err == nil {
		err = setOwnerModeXattrs(f.fd, f.hdr)
	}
	if err == nil {
		err = setTimes(f.fd, "", f.hdr.ModTime)
	}
	// A file system may tell of a full disk only now.
	return errors.Join(err, unix.Close(f.fd))
}

// fileWriters finish files on other cores while the caller goes on with the
// archive. Only names need the archive's order: what happens to a file's inode
// does not show in its directory. The zero value is ready; it is for one caller.
type fileWriters struct {
	wg    sync.WaitGroup
	slots chan struct{}

	mu  sync.Mutex
	err error // the first
}

// write finishes f, soon. It returns the error of an earlier one, if there is.
func (w *fileWriters) write(f newFile) error {
	if w.slots == nil {
		w.slots = make(chan struct{}, min(maxFileWriters, runtime.GOMAXPROCS(0)))
	}
	select {
	case w.slots <- struct{}{}:
		w.wg.Go(func() {
			defer func() { <-w.slots }()
			w.note(f.finish())
		})
	default: // all are busy: so is the caller
		w.note(f.finish())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
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

// wait returns when all files are finished, with the first error of any.
func (w *fileWriters) wait() error {
	w.wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
