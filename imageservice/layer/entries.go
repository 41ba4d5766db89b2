package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/berth-cri/berth/imageservice/tree"
	"golang.org/x/sys/unix"
)

// directory makes a directory or gives one that is there its attributes.
func (t *treeWriter) directory(e entry) error {
	err := unix.Mkdirat(e.parent, e.base, 0o700)
	hidesLower := false
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(e.parent, e.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "stat", Path: e.name, Err: err}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return t.describe(e)
		}
		hidesLower = IsWhiteout(&st)
		if err := t.replace(e); err != nil {
			return err
		}
		err = unix.Mkdirat(e.parent, e.base, 0o700)
	}
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: e.name, Err: err}
	}
	t.count(blockSize)
	if err := t.describe(e); err != nil {
		return err
	}
	if hidesLower {
		// Removed and made anew: nothing of the layers below shows through.
		return t.setOpaqueAt(e.parent, e.base)
	}
	return nil
}

// describe gives the directory what its entry says.
func (t *treeWriter) describe(e entry) error {
	fd, err := openDirAt(e.parent, e.base)
	if err != nil {
		return &os.PathError{Op: "open", Path: e.name, Err: err}
	}
	defer unix.Close(fd)
	return t.describeFD(fd, e.name, e.hdr)
}

func (t *treeWriter) describeFD(fd int, name string, hdr *tar.Header) error {
	delete(t.implied, name)
	if err := setOwnerModeXattrs(fd, hdr); err != nil {
		return err
	}
	if t.remember(name) {
		t.dirs = append(t.dirs, dirTime{name: name, mtime: hdr.ModTime})
	}
	return nil
}

func (t *treeWriter) rootEntry(hdr *tar.Header) error {
	return t.describeFD(int(t.root.Fd()), ".", hdr)
}

// create makes the name with f, in the place of what has it now.
func (t *treeWriter) create(e entry, op string, f func() error) error {
	err := f()
	if errors.Is(err, unix.EEXIST) {
		if err := t.replace(e); err != nil {
			return err
		}
		err = f()
	}
	if err != nil {
		return &os.PathError{Op: op, Path: e.name, Err: err}
	}
	return nil
}

// replace removes what the archive wrote before under the same name.
func (t *treeWriter) replace(e entry) error {
	// The path of another directory may have led through it. e.parent stays open.
	t.parents.forget()
	if err := t.files.wait(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(e.parent, e.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: e.name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := unix.Unlinkat(e.parent, e.base, 0); err != nil {
			return &os.PathError{Op: "unlink", Path: e.name, Err: err}
		}
		if st.Nlink == 1 {
			t.uncount(uint64(st.Size), st.Mode)
		}
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(e.parent), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), path.Dir(e.name))
	defer dir.Close()
	return tree.Remove(dir, e.base)
}

func (t *treeWriter) uncount(size uint64, mode uint32) {
	bytes := uint64(0)
	if mode&unix.S_IFMT == unix.S_IFREG {
		bytes = min(roundUp(size), t.usage.bytes)
	}
	t.usage.bytes -= bytes
	t.usage.inodes--
}

func roundUp(n uint64) uint64 { return (n + blockSize - 1) / blockSize * blockSize }

func (t *treeWriter) regular(e entry, r io.Reader) error {
	var fd int
	// The umask may take bits away and never adds any; what is missing is set later.
	perm := mode(e.hdr) & 0o777
	err := t.create(e, "create", func() (err error) {
		fd, err = unix.Openat(e.parent, e.base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		return err
	})
	if err != nil {
		return err
	}
	f := newFile{fd: fd, hdr: e.hdr}
	if isSparse(e.hdr) {
		written, err := t.sparseContent(fd, e.hdr, r)
		t.count(roundUp(uint64(written)))
		return errors.Join(err, f.finish())
	}
	t.count(roundUp(uint64(e.hdr.Size)))
	return t.content(f, r)
}

// content hands the entry's bytes to those who write files. The end of a file, and
// all of a small one, is written beside the next entries.
func (t *treeWriter) content(f newFile, r io.Reader) error {
	for {
		part := t.files.space(min(chunkSize, f.hdr.Size-f.offset))
		if _, err := io.ReadFull(r, part); err != nil {
			return errors.Join(contentError(err), unix.Close(f.fd))
		}
		if f.offset+int64(len(part)) == f.hdr.Size {
			f.tail = part
			return t.files.add(f)
		}
		err := pwriteAll(f.fd, part, f.offset)
		f.offset += int64(len(part))
		if err == nil && t.files.drop {
			err = writeBehind(f.fd, f.offset)
		}
		if err != nil {
			unix.Close(f.fd)
			return &os.PathError{Op: "write", Path: f.hdr.Name, Err: err}
		}
	}
}

func contentError(err error) error {
	if errors.Is(err, errUpstream) {
		return err
	}
	return fmt.Errorf("read content: %w: %w", err, ErrHostile)
}

// sparseContent copies the entry's bytes, and leaves holes where they are zero. It
// returns the bytes written.
func (t *treeWriter) sparseContent(fd int, hdr *tar.Header, r io.Reader) (int64, error) {
	if t.sparse += hdr.Size; t.sparse > maxSparseBytes || t.sparse < 0 {
		return 0, fmt.Errorf("sparse files of more than %d bytes: %w", int64(maxSparseBytes), ErrHostile)
	}
	buf := newChunk(1)
	defer buf.release()
	var written, offset int64
	for offset < hdr.Size {
		part := buf.space()[:min(chunkSize, hdr.Size-offset)]
		n, err := io.ReadFull(r, part)
		if err != nil {
			return written, contentError(err)
		}
		if !allZero(part) {
			if err := pwriteAll(fd, part, offset); err != nil {
				return written, &os.PathError{Op: "write", Path: hdr.Name, Err: err}
			}
			written += int64(n)
		}
		offset += int64(n)
	}
	if err := unix.Ftruncate(fd, hdr.Size); err != nil {
		return written, &os.PathError{Op: "truncate", Path: hdr.Name, Err: err}
	}
	return written, nil
}

func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func pwriteAll(fd int, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

func (t *treeWriter) symlink(e entry) error {
	if len(e.hdr.Linkname) >= maxNameLen || strings.IndexByte(e.hdr.Linkname, 0) >= 0 || e.hdr.Linkname == "" {
		return fmt.Errorf("link target is empty, too long or has a zero byte: %w", ErrHostile)
	}
	err := t.create(e, "symlink", func() error { return unix.Symlinkat(e.hdr.Linkname, e.parent, e.base) })
	if err != nil {
		return err
	}
	t.count(0)
	return t.describeName(e)
}

// node makes device nodes and FIFOs. Devices are part of images, and no danger
// here: the store is closed to all but root, and a container reaches a device
// only if its device cgroup lets it.
func (t *treeWriter) node(e entry) error {
	var kind uint32
	var dev uint64
	switch e.hdr.Typeflag {
	case tar.TypeFifo:
		kind = unix.S_IFIFO
	case tar.TypeChar:
		kind = unix.S_IFCHR
	case tar.TypeBlock:
		kind = unix.S_IFBLK
	}
	if kind != unix.S_IFIFO {
		const mostMajor, mostMinor = 1<<12 - 1, 1<<20 - 1
		if e.hdr.Devmajor < 0 || e.hdr.Devmajor > mostMajor || e.hdr.Devminor < 0 || e.hdr.Devminor > mostMinor {
			return fmt.Errorf("device %d:%d out of range: %w", e.hdr.Devmajor, e.hdr.Devminor, ErrHostile)
		}
		if kind == unix.S_IFCHR && e.hdr.Devmajor == 0 && e.hdr.Devminor == 0 {
			// An archive made of an overlayfs directory: its way to say whiteout.
			return t.hide(e.parent, e.base)
		}
		dev = unix.Mkdev(uint32(e.hdr.Devmajor), uint32(e.hdr.Devminor))
	}
	err := t.create(e, "mknod", func() error { return unix.Mknodat(e.parent, e.base, kind|0o600, int(dev)) })
	if err != nil {
		return err
	}
	t.count(0)
	return t.describeName(e)
}

// describeName sets owner, mode and times of what must not be opened.
func (t *treeWriter) describeName(e entry) error {
	if err := unix.Fchownat(e.parent, e.base, e.hdr.Uid, e.hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "chown", Path: e.name, Err: err}
	}
	if e.hdr.Typeflag != tar.TypeSymlink {
		// Made by us an instant ago: it is no link that could be followed.
		if err := unix.Fchmodat(e.parent, e.base, mode(e.hdr), 0); err != nil {
			return &os.PathError{Op: "chmod", Path: e.name, Err: err}
		}
	}
	if err := setTimes(e.parent, e.base, e.hdr.ModTime); err != nil {
		return &os.PathError{Op: "utimensat", Path: e.name, Err: err}
	}
	return nil
}

func (t *treeWriter) hardlink(e entry) error {
	target, err := localName(e.hdr.Linkname)
	if err != nil {
		return fmt.Errorf("link target: %w", err)
	}
	dir, base := path.Split(target)
	if strings.HasPrefix(base, whiteoutPrefix) {
		return fmt.Errorf("link to a whiteout: %w", ErrHostile)
	}
	from := int(t.root.Fd())
	if dir != "" {
		fd, err := t.openInRoot(dir)
		if err != nil {
			return fmt.Errorf("link target %q: %w: %w", abbreviate(target), err, ErrHostile)
		}
		defer unix.Close(fd)
		from = fd
	}
	var st unix.Stat_t
	if err := unix.Fstatat(from, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("link target %q: %w: %w", abbreviate(target), err, ErrHostile)
	}
	if IsWhiteout(&st) {
		return t.hide(e.parent, e.base) // overlayfs links its whiteouts to each other
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("link target %q is a directory: %w", abbreviate(target), ErrHostile)
	}
	if t.sameName(from, base, e) {
		return nil
	}
	return t.create(e, "link", func() error { return unix.Linkat(from, base, e.parent, e.base, 0) })
}

// sameName tells whether a link would replace its own target.
func (t *treeWriter) sameName(from int, base string, e entry) bool {
	if base != e.base {
		return false
	}
	var a, b unix.Stat_t
	if unix.Fstat(from, &a) != nil || unix.Fstat(e.parent, &b) != nil {
		return false
	}
	return a.Ino == b.Ino && a.Dev == b.Dev
}

// whiteout translates the archive's mark into that of overlayfs.
func (t *treeWriter) whiteout(parent int, base string) error {
	if base == opaqueMarker {
		return setOpaque(parent)
	}
	if strings.HasPrefix(base, aufsPrefix) {
		return nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of %q: %w", name, ErrHostile)
	}
	return t.hide(parent, name)
}

// hide makes name in the directory parent hide what has it in layers below.
func (t *treeWriter) hide(parent int, name string) error {
	err := unix.Mknodat(parent, name, unix.S_IFCHR, 0)
	if err == nil {
		t.count(0)
		return nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mknod", Path: name, Err: err}
	}
	// A whiteout hides what lies in layers below, never what is in its own.
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return t.setOpaqueAt(parent, name)
	}
	return nil
}

// IsWhiteout tells whether a file is overlayfs's mark for a name that is gone.
func IsWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func (t *treeWriter) setOpaqueAt(parent int, base string) error {
	fd, err := openDirAt(parent, base)
	if err != nil {
		return &os.PathError{Op: "open", Path: base, Err: err}
	}
	defer unix.Close(fd)
	return setOpaque(fd)
}

func setOpaque(fd int) error {
	if err := unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0); err != nil {
		return fmt.Errorf("set %s: %w", opaqueXattr, err)
	}
	return nil
}

// mode returns the permission bits with set-user-ID, set-group-ID and sticky.
func mode(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & 0o7777 }

// setOwnerModeXattrs keeps the order that the kernel asks for: chown clears
// set-user-ID bits and capabilities.
func setOwnerModeXattrs(fd int, hdr *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	// Most are as they should be: a look is much cheaper than a change.
	chown := int(st.Uid) != hdr.Uid || int(st.Gid) != hdr.Gid
	if chown {
		if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	if chown || st.Mode&0o7777 != mode(hdr) {
		if err := unix.Fchmod(fd, mode(hdr)); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	return SetXattrs(fd, hdr, nil)
}

// setTimes sets the modification time of base in the directory fd, or of fd
// itself when base is empty.
func setTimes(fd int, base string, mtime time.Time) error {
	ts := unix.Timespec{Sec: mtime.Unix(), Nsec: int64(mtime.Nanosecond())}
	return utimensat(fd, base, &[2]unix.Timespec{ts, ts})
}
