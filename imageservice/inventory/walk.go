package inventory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/tree"
)

const (
	// maxDepth is far below what a layer's names of at most PATH_MAX bytes can be
	// nested; a descriptor is held for each directory on the way.
	maxDepth  = 2048
	blockSize = 256 << 10
	xattrSize = 256 << 10
)

// Usage is what a tree takes of its file system.
type Usage struct {
	Entries int
	Bytes   uint64 // allocated
	Inodes  uint64
}

// Walk calls visit with the entries of the tree at root, in their order. untimed are
// the directories whose modification times mean nothing. Nothing else may write to
// the tree meanwhile. flush, if there is one, brings the tree to the disk. The first error,
// also one of visit, ends it.
func Walk(ctx context.Context, root string, untimed []string, flush *tree.Flusher, visit func(Entry) error) (Usage, error) {
	w := newWalker(ctx, untimed, visit)
	w.flush = flush
	return w.walk(root)
}

func newWalker(ctx context.Context, untimed []string, visit func(Entry) error) *walker {
	w := &walker{
		ctx: ctx, visit: visit, untimed: map[string]bool{}, linked: map[uint64]string{},
		hash: xxhash.New(), block: make([]byte, blockSize),
	}
	for _, name := range untimed {
		w.untimed[name] = true
	}
	return w
}

func (w *walker) walk(root string) (Usage, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return Usage{}, &os.PathError{Op: "open", Path: root, Err: err}
	}
	err = w.directory(os.NewFile(uintptr(fd), root), ".", 1)
	return w.usage, err
}

type walker struct {
	ctx     context.Context
	visit   func(Entry) error
	untimed map[string]bool
	linked  map[uint64]string // first names of files with several
	usage   Usage
	flush   *tree.Flusher // or nil
	restore bool          // the page cache: what was there before stays, and nothing else
	hash    *xxhash.Digest
	block   []byte
	xattrs  []byte // made when it is needed
}

// directory visits dir and what is in it, and closes it.
func (w *walker) directory(dir *os.File, name string, depth int) error {
	defer dir.Close()
	if depth > maxDepth {
		return fmt.Errorf("%s: directories are nested deeper than %d", name, maxDepth)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	e := w.describe(name, &st)
	if w.untimed[name] {
		e.Sec, e.Nsec = 0, 0
	}
	var err error
	if e.Xattrs, err = w.attributes(int(dir.Fd())); err != nil {
		return &os.PathError{Op: "read the attributes of", Path: name, Err: err}
	}
	if err := w.visit(e); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return &os.PathError{Op: "list", Path: name, Err: err}
	}
	slices.Sort(names)
	for _, base := range names {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
		if err := w.entry(dir, base, path.Join(name, base), depth); err != nil {
			return err
		}
	}
	if w.flush == nil {
		return nil
	}
	if err := w.flush.Directory(int(dir.Fd())); err != nil {
		return &os.PathError{Op: "sync", Path: name, Err: err}
	}
	return nil
}

func (w *walker) describe(name string, st *unix.Stat_t) Entry {
	e := Entry{Path: name, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Size = st.Size
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = st.Rdev
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			// A whiteout: overlayfs looks at nothing else.
			e.Mode, e.UID, e.GID, e.Sec, e.Nsec = unix.S_IFCHR, 0, 0, 0, 0
		}
	}
	w.usage.Entries++
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if first, ok := w.linked[st.Ino]; ok {
			e.Hard = first
			return e
		}
		w.linked[st.Ino] = name
	}
	w.usage.Bytes += uint64(st.Blocks) * 512
	w.usage.Inodes++
	return e
}

func (w *walker) entry(dir *os.File, base, name string, depth int) error {
	at := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		return w.directory(os.NewFile(uintptr(fd), name), name, depth+1)
	case unix.S_IFREG:
		return w.file(at, base, name, &st)
	}
	e := w.describe(name, &st)
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(at, base, target)
		if err != nil {
			return &os.PathError{Op: "readlink", Path: name, Err: err}
		}
		e.Link = string(target[:n])
	}
	return w.visit(e)
}

func (w *walker) file(at int, base, name string, st *unix.Stat_t) error {
	e := w.describe(name, st)
	if e.Hard != "" {
		return w.visit(e) // its attributes and content are the first name's
	}
	fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	if err := w.read(fd, &e); err != nil {
		unix.Close(fd)
		return err
	}
	if w.flush == nil {
		unix.Close(fd)
	} else if err := w.flush.File(fd); err != nil {
		return err
	}
	return w.visit(e)
}

// read fills in what only a file that is open tells.
func (w *walker) read(fd int, e *Entry) (err error) {
	if e.Xattrs, err = w.attributes(fd); err != nil {
		return &os.PathError{Op: "read the attributes of", Path: e.Path, Err: err}
	}
	var before cached
	if w.restore {
		before = lookAtCache(fd, e.Size)
		defer before.restore(fd, 0, e.Size)
	}
	if e.Sum, err = w.sum(fd, e.Size, before); err != nil {
		return &os.PathError{Op: "read", Path: e.Path, Err: err}
	}
	return nil
}

// sum leaves blocks of zeros out, so that holes cost nothing and do not count: where
// they are is the file system's choice. Of a large file, the page cache has before again
// as it goes.
func (w *walker) sum(fd int, size int64, before cached) (uint64, error) {
	h := w.hash
	h.Reset()
	for offset := int64(0); offset < size; {
		if size > blockSize {
			data, err := unix.Seek(fd, offset, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				break // a hole to the end
			}
			if err == nil {
				offset = data / blockSize * blockSize
			}
		}
		if err := w.ctx.Err(); err != nil {
			return 0, context.Cause(w.ctx)
		}
		n, err := readAt(fd, w.block[:min(blockSize, size-offset)], offset)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break // shorter than it was: the size tells
		}
		if !zero(w.block[:n]) {
			var at [8]byte
			for i := range at {
				at[i] = byte(offset >> (8 * i))
			}
			_, _ = h.Write(at[:])
			_, _ = h.Write(w.block[:n])
		}
		offset += int64(n)
		if n == blockSize {
			before.restore(fd, offset-blockSize, offset)
		}
	}
	return h.Sum64(), nil
}

func readAt(fd int, buf []byte, offset int64) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := unix.Pread(fd, buf[n:], offset+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// attributes are those that belong to a layer. Labels are the node's.
func (w *walker) attributes(fd int) ([]Xattr, error) {
	n, err := unix.Flistxattr(fd, nil)
	if n == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if w.xattrs == nil {
		w.xattrs = make([]byte, xattrSize)
	}
	if n, err = unix.Flistxattr(fd, w.xattrs); err != nil {
		return nil, err
	}
	names := strings.Split(strings.TrimRight(string(w.xattrs[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var list []Xattr
	for _, name := range names {
		if name != "security.capability" && name != "trusted.overlay.opaque" && !strings.HasPrefix(name, "user.") {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, w.xattrs)
		if err != nil {
			return nil, err
		}
		list = append(list, Xattr{Name: name, Value: string(w.xattrs[:n])})
	}
	return list, nil
}
