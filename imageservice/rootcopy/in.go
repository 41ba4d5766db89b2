package rootcopy

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/idmap"
	"github.com/berth-cri/berth/imageservice/layer"
)

// In writes the entries of an archive below a directory of root, with owner, mode, times and
// extended attributes (user.* and file capabilities). A file takes the place of what has its
// name, in one step, and is never written through a link; a directory, or a link to one, that
// is there stays as it is. Owners that the user namespace does not have become its root. What
// was written before an error stays.
//
// Devices, pipes, names that lead out of the directory, and what is no archive, are
// errdefs.ErrInvalidArgument; a directory that is not there is errdefs.ErrNotFound.
//
// With top, the name of the one thing that the archive has, dir can be where that is to be, in
// a directory that is there.
func In(ctx context.Context, root *os.File, dir, top string, r io.Reader, ids idmap.Map) error {
	w, err := newWriter(root, dir, top, ids)
	if err != nil {
		return err
	}
	archive := tar.NewReader(r)
	for {
		hdr, err := archive.Next()
		if err == io.EOF {
			return w.finish()
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = w.entry(hdr, archive)
		}
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return fmt.Errorf("copy from archive: %w", err)
		}
	}
}

func newWriter(root *os.File, dir, top string, ids idmap.Map) (*writer, error) {
	parent, base, err := split(dir)
	if err != nil {
		return nil, err
	}
	w := &writer{root: root, dir: dir, ids: ids}
	d, err := openDir(root, dir, unix.O_PATH)
	if err != nil && top != "" && base != "." && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
		w.dir, w.top, w.as = parent, top, base
		d, err = openDir(root, parent, unix.O_PATH)
	}
	if err != nil {
		return nil, err
	}
	return w, d.Close()
}

// writer is one call of In.
type writer struct {
	root *os.File
	dir  string
	ids  idmap.Map
	// top is the name that the archive has for what is to be called as; none if empty.
	top, as string
	made    []madeDir
}

// madeDir is a directory that gets its time when all is in it.
type madeDir struct {
	name     string
	dev, ino uint64
	mtime    time.Time
}

func (w *writer) entry(hdr *tar.Header, r io.Reader) error {
	name := w.name(hdr.Name)
	switch {
	case hdr.Typeflag == tar.TypeXGlobalHeader || name == "." && hdr.Typeflag == tar.TypeDir:
		return nil
	case name == "." || name == ".." || strings.HasPrefix(name, "../"):
		return fmt.Errorf("entry %.100q leads out of the directory: %w", hdr.Name, errdefs.ErrInvalidArgument)
	}
	parent, err := w.parent(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	base := path.Base(name)
	switch hdr.Typeflag {
	case tar.TypeDir:
		return w.directory(parent, base, name, hdr)
	case tar.TypeReg, tar.TypeGNUSparse:
		return w.replace(parent, base, name, func(tmp string) error { return w.file(parent, tmp, hdr, r) })
	case tar.TypeSymlink:
		return w.replace(parent, base, name, func(tmp string) error { return w.symlink(parent, tmp, hdr) })
	case tar.TypeLink:
		return w.replace(parent, base, name, func(tmp string) error { return w.link(parent, tmp, hdr) })
	}
	return fmt.Errorf("entry %.100q is neither file, directory nor link: %w", hdr.Name, errdefs.ErrInvalidArgument)
}

// name is what the archive's name of an entry is below the directory.
func (w *writer) name(entry string) string {
	name := path.Clean(strings.TrimLeft(entry, "/"))
	first, rest, _ := strings.Cut(name, "/")
	if w.top != "" && first == w.top {
		return path.Join(w.as, rest)
	}
	return name
}

// parent opens a directory below that of the call, and makes it if need be.
func (w *writer) parent(name string) (*os.File, error) {
	dir, err := openDir(w.root, w.dir+"/"+name, unix.O_PATH)
	if !errors.Is(err, unix.ENOENT) || name == "." {
		return dir, err
	}
	above, err := w.parent(path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer above.Close()
	if err := w.directory(above, path.Base(name), name, &tar.Header{Mode: 0o755, ModTime: time.Now()}); err != nil {
		return nil, err
	}
	return openDir(w.root, w.dir+"/"+name, unix.O_PATH)
}

// directory makes one, or finds one there.
func (w *writer) directory(parent *os.File, base, name string, hdr *tar.Header) error {
	err := unix.Mkdirat(int(parent.Fd()), base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		dir, err := openDir(w.root, w.dir+"/"+name, unix.O_PATH)
		if err != nil {
			return err
		}
		return dir.Close()
	}
	if err != nil {
		return kinded("mkdir", name, err)
	}
	fd, err := unix.Openat2(int(parent.Fd()), base, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return kinded("open", name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return kinded("stat", name, err)
	}
	// Another one, in the place of that which was made, must not be given away.
	if _, err := dir.Readdirnames(1); err != io.EOF || st.Uid != 0 || st.Mode&0o777 != 0o700 {
		return fmt.Errorf("mkdir %q: something else has taken its place: %w", name, errdefs.ErrAborted)
	}
	if err := w.describe(fd, name, hdr); err != nil {
		return err
	}
	w.made = append(w.made, madeDir{name, st.Dev, st.Ino, hdr.ModTime})
	return nil
}

// describe sets owner, mode and extended attributes, in this order: the kernel takes set-ID
// bits and capabilities of what changes its owner.
func (w *writer) describe(fd int, name string, hdr *tar.Header) error {
	uid, gid := w.owner(hdr)
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return kinded("chown", name, err)
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode)&0o7777); err != nil {
		return kinded("chmod", name, err)
	}
	if err := layer.SetXattrs(fd, hdr, w.ids.UIDs); err != nil {
		return kinded("describe", name, err)
	}
	return nil
}

// owner is who a file of the archive belongs to on the node.
func (w *writer) owner(hdr *tar.Header) (uid, gid int) {
	return outside(w.ids.UIDs, hdr.Uid), outside(w.ids.GIDs, hdr.Gid)
}

func outside(ids idmap.Ranges, id int) int {
	const most = 1<<32 - 2 // the next one means "as it is"
	if id >= 0 && id <= most {
		if host, ok := ids.Outside(uint32(id)); ok {
			return int(host)
		}
	}
	root, _ := ids.Outside(0)
	return int(root)
}

// replace has write make something under a name of ours and moves it to its place.
func (w *writer) replace(parent *os.File, base, name string, write func(tmp string) error) error {
	tmp := ".berth-cp-" + rand.Text()
	// Where it is still there after the renaming, it was another name of the same file.
	defer func() { _ = unix.Unlinkat(int(parent.Fd()), tmp, 0) }()
	if err := write(tmp); err != nil {
		return err
	}
	if err := unix.Renameat(int(parent.Fd()), tmp, int(parent.Fd()), base); err != nil {
		return kinded("replace", name, err)
	}
	return nil
}

func (w *writer) file(parent *os.File, tmp string, hdr *tar.Header, r io.Reader) error {
	fd, err := unix.Openat(int(parent.Fd()), tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return kinded("create", hdr.Name, err)
	}
	f := os.NewFile(uintptr(fd), hdr.Name)
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return fmt.Errorf("write %q: %w", hdr.Name, err)
	}
	if err := w.describe(fd, hdr.Name, hdr); err != nil {
		return err
	}
	if err := setTime(fd, hdr.ModTime); err != nil {
		return kinded("set time of", hdr.Name, err)
	}
	return f.Close() // a file system may tell of a full disk only now
}

func setTime(fd int, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), []unix.Timespec{ts, ts}, 0)
}

func (w *writer) symlink(parent *os.File, tmp string, hdr *tar.Header) error {
	if err := unix.Symlinkat(hdr.Linkname, int(parent.Fd()), tmp); err != nil {
		return kinded("symlink", hdr.Name, err)
	}
	fd, err := unix.Openat(int(parent.Fd()), tmp, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return kinded("open", hdr.Name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return fmt.Errorf("symlink %q: something else has taken its place: %w", hdr.Name, errdefs.ErrAborted)
	}
	uid, gid := w.owner(hdr)
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return kinded("chown", hdr.Name, err)
	}
	return nil
}

// link makes another name of a file that the archive had before.
func (w *writer) link(parent *os.File, tmp string, hdr *tar.Header) error {
	target := w.name(hdr.Linkname)
	if target == "." || target == ".." || strings.HasPrefix(target, "../") {
		return fmt.Errorf("link %.100q leads out of the directory: %w", hdr.Linkname, errdefs.ErrInvalidArgument)
	}
	dir, err := openDir(w.root, w.dir+"/"+path.Dir(target), unix.O_PATH)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Linkat(int(dir.Fd()), path.Base(target), int(parent.Fd()), tmp, 0); err != nil {
		return kinded("link", hdr.Name, err)
	}
	return nil
}

// finish sets the times of directories, the last made first. One that is not where it was
// made any more keeps what it has.
func (w *writer) finish() error {
	for i := len(w.made) - 1; i >= 0; i-- {
		d := w.made[i]
		dir, err := openDir(w.root, w.dir+"/"+d.name, unix.O_RDONLY)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = unix.Fstat(int(dir.Fd()), &st)
		if err == nil && st.Dev == d.dev && st.Ino == d.ino {
			err = setTime(int(dir.Fd()), d.mtime)
		}
		dir.Close()
		if err != nil {
			return kinded("set time of", d.name, err)
		}
	}
	return nil
}
