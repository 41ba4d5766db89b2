package store

import (
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxExtents bounds how many pieces of a partial blob are taken up again. A transfer
// leaves a few; more are not worth a request each.
const maxExtents = 64

// Extent is the bytes of a blob from From up to To, without the one there.
type Extent struct{ From, To int64 }

// ReadAt reads what has been written. Unlike the rest, it and WriteAt are for
// concurrent use.
func (p *Partial) ReadAt(b []byte, offset int64) (int, error) { return p.file.ReadAt(b, offset) }

// WriteAt keeps bytes that came before their turn. Size does not count them until
// Advance comes to them.
func (p *Partial) WriteAt(b []byte, offset int64) (int, error) {
	p.first.Do(func() { p.began = time.Now() })
	n, err := p.file.WriteAt(b, offset)
	p.fetched.Add(int64(n))
	if p.unsynced.Add(int64(n)) >= partialStep && p.isLong() {
		p.syncSoon()
	}
	return n, err
}

// Ahead is what was there, when the blob was opened, behind a gap.
func (p *Partial) Ahead() []Extent { return p.ahead }

// find learns from the file's holes what an earlier transfer has brought.
func (p *Partial) find(st os.FileInfo) {
	p.size.Store(0)
	p.ahead = nil
	for _, e := range dataOf(p.file, st) {
		if e.From == 0 {
			p.size.Store(e.To)
		} else {
			p.ahead = append(p.ahead, e)
		}
	}
}

// dataOf lists the parts of a file that were written, in order. A file system that
// knows no holes calls all of it data; then the blob's digest finds out.
func dataOf(f *os.File, st os.FileInfo) []Extent {
	var list []Extent
	fd, size := int(f.Fd()), st.Size()
	for at := int64(0); at < size && len(list) < maxExtents; {
		from, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err != nil {
			break // there is no more
		}
		to, err := unix.Seek(fd, from, unix.SEEK_HOLE)
		if err != nil {
			break
		}
		at = to
		if to < size {
			// Holes begin at whole blocks, and what was written may have ended within
			// one.
			to -= blockOf(st)
		}
		if to > from {
			list = append(list, Extent{From: from, To: to})
		}
	}
	return list
}

func blockOf(st os.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int64(sys.Blksize) > int64(os.Getpagesize()) {
		return int64(sys.Blksize)
	}
	return int64(os.Getpagesize())
}

// allocated is a file's size without its holes.
func allocated(st fs.FileInfo) int64 {
	const unit = 512
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return min(st.Size(), sys.Blocks*unit)
	}
	return st.Size()
}

var (
	_ io.ReaderAt = (*Partial)(nil)
	_ io.WriterAt = (*Partial)(nil)
)
