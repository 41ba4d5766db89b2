package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/idmap"
)

const (
	// maxPackDepth bounds how deep the directories of a tree may be that is packed.
	maxPackDepth = 1000
	// redirectXattr and metacopyXattr are marks of overlayfs that a layer has no words for.
	redirectXattr = "trusted.overlay.redirect"
	metacopyXattr = "trusted.overlay.metacopy"
)

// PackOptions say how a tree is packed. The zero value packs all of it as it is.
type PackOptions struct {
	// Skip tells of paths below the root that are left out, with what is below them.
	Skip func(name string) bool
	// IDs is the mapping of the user namespace that the tree belongs to: the archive has
	// the owners as they are inside.
	IDs idmap.Map
	// Refuse tells of an opened file or directory, which may be only a place, that it is left
	// out, with what is below it.
	Refuse func(fd int) bool

	// plain has no marks of overlayfs in it, nor what would be one in an archive.
	plain bool
}

// Pack writes the tree below root, a writable layer of overlayfs, as an archive that
// Unpack takes, the same tree as the same bytes. Sockets are left out, since archives have
// none, and so are the extended attributes that Unpack does not set. Who changes the tree
// meanwhile gets an error, or something in between; no device or pipe is ever opened. What
// an archive cannot say is errdefs.ErrFailedPrecondition.
func Pack(ctx context.Context, root *os.File, w io.Writer, o PackOptions) error {
	p := packer{ctx: ctx, tar: tar.NewWriter(w), o: o, linked: map[inode]string{}}
	if err := p.dir(root, ".", 0); err != nil {
		return err
	}
	return p.tar.Close()
}

// PackEntry writes what has the name base in a directory, with all that is below it, under the
// name as. The tree is one as a container sees it, in which nothing is a mark of overlayfs.
// Otherwise it is as Pack.
func PackEntry(ctx context.Context, dir *os.File, base, as string, w io.Writer, o PackOptions) error {
	o.plain = true
	p := packer{ctx: ctx, tar: tar.NewWriter(w), o: o, linked: map[inode]string{}}
	if err := p.entry(dir, base, as, 0); err != nil {
		return err
	}
	return p.tar.Close()
}

type packer struct {
	ctx context.Context
	tar *tar.Writer
	o   PackOptions
	// linked maps inodes with several names to the first one.
	linked map[inode]string
}

type inode struct{ dev, ino uint64 }

// dir writes a directory and what is in it.
func (p *packer) dir(dir *os.File, name string, depth int) error {
	if depth > maxPackDepth {
		return fmt.Errorf("pack %q: more than %d directories deep: %w", abbreviate(name), maxPackDepth, errdefs.ErrFailedPrecondition)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("pack %q: %w", abbreviate(name), err)
	}
	hdr := p.header(name+"/", &st)
	hdr.Typeflag = tar.TypeDir
	if err := p.write(hdr, dir); err != nil {
		return err
	}
	if !p.o.plain && isOpaqueDir(dir) {
		if err := p.tar.WriteHeader(&tar.Header{Name: join(name, opaqueMarker), Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
			return fmt.Errorf("pack %q: %w", abbreviate(name), err)
		}
	}
	entries, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("pack %q: %w", abbreviate(name), err)
	}
	slices.Sort(entries)
	for _, e := range entries {
		if err := p.ctx.Err(); err != nil {
			return context.Cause(p.ctx)
		}
		below := join(name, e)
		if p.o.Skip != nil && p.o.Skip(below) {
			continue
		}
		if err := p.entry(dir, e, below, depth); err != nil {
			return err
		}
	}
	return nil
}

func join(dir, base string) string {
	if dir == "." {
		return base
	}
	return dir + "/" + base
}

func (p *packer) entry(dir *os.File, base, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "pack", Path: abbreviate(name), Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if !p.o.plain && strings.HasPrefix(base, whiteoutPrefix) {
		return fmt.Errorf("pack %q: an archive would take the name for a mark: %w", abbreviate(name), errdefs.ErrFailedPrecondition)
	}
	id := inode{st.Dev, st.Ino}
	hdr := p.header(name, &st)
	switch {
	case kind == unix.S_IFSOCK:
		return nil
	case !p.o.plain && IsWhiteout(&st):
		*hdr = tar.Header{Name: strings.TrimSuffix(name, base) + whiteoutPrefix + base, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		return p.write(hdr, nil)
	case kind == unix.S_IFDIR:
		return p.open(dir, base, name, kind, func(f *os.File) error { return p.dir(f, name, depth+1) })
	case st.Nlink > 1 && p.linked[id] != "":
		hdr.Typeflag, hdr.Linkname = tar.TypeLink, p.linked[id]
		return p.write(hdr, nil)
	}
	if st.Nlink > 1 {
		p.linked[id] = name
	}
	switch kind {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
		return p.open(dir, base, name, kind, func(f *os.File) error { return p.file(hdr, f) })
	case unix.S_IFLNK:
		target := make([]byte, maxNameLen)
		n, err := unix.Readlinkat(int(dir.Fd()), base, target)
		if err != nil {
			return &os.PathError{Op: "readlink", Path: abbreviate(name), Err: err}
		}
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, string(target[:n])
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag = tar.TypeChar
		if kind == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return p.write(hdr, nil)
}

// open calls f with a file or directory in dir. It is looked at before it is opened: what has
// its name by now can be a device, which to open is to use.
func (p *packer) open(dir *os.File, base, name string, kind uint32, f func(*os.File) error) error {
	place, err := unix.Openat(int(dir.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: abbreviate(name), Err: err}
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return &os.PathError{Op: "stat", Path: abbreviate(name), Err: err}
	}
	if st.Mode&unix.S_IFMT != kind {
		return fmt.Errorf("pack %q: something else has taken its place: %w", abbreviate(name), errdefs.ErrUnavailable)
	}
	if p.o.Refuse != nil && p.o.Refuse(place) {
		return nil
	}
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", place), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: abbreviate(name), Err: err}
	}
	defer file.Close()
	return f(file)
}

func (p *packer) file(hdr *tar.Header, f *os.File) error {
	if err := p.write(hdr, f); err != nil {
		return err
	}
	n, err := io.Copy(p.tar, io.LimitReader(f, hdr.Size))
	if err == nil && n != hdr.Size {
		err = fmt.Errorf("it got shorter: %w", io.ErrUnexpectedEOF)
	}
	if err != nil {
		return fmt.Errorf("pack %q: %w", abbreviate(hdr.Name), err)
	}
	return nil
}

// write writes a header with the extended attributes of f, which may be nil.
func (p *packer) write(hdr *tar.Header, f *os.File) error {
	if f != nil {
		xattrs, err := Xattrs(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("pack %q: %w", abbreviate(hdr.Name), err)
		}
		if c, ok := xattrs[paxXattrPrefix+capabilityXattr]; ok {
			xattrs[paxXattrPrefix+capabilityXattr] = capabilityInside(c, p.o.IDs.UIDs)
		}
		hdr.PAXRecords = xattrs
	}
	if err := p.tar.WriteHeader(hdr); err != nil {
		return fmt.Errorf("pack %q: %w", abbreviate(hdr.Name), err)
	}
	return nil
}

func (p *packer) header(name string, st *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(p.o.IDs.UIDs.Inside(st.Uid)), Gid: int(p.o.IDs.GIDs.Inside(st.Gid)),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
}

func isOpaqueDir(dir *os.File) bool {
	var value [1]byte
	n, err := unix.Fgetxattr(int(dir.Fd()), opaqueXattr, value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

// Xattrs returns the extended attributes that an archive may have, as its records. A mark of
// overlayfs that means something else than the file says is errdefs.ErrFailedPrecondition.
func Xattrs(fd int) (map[string]string, error) {
	names := make([]byte, maxXattrBytes)
	n, err := unix.Flistxattr(fd, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("flistxattr", err)
	}
	var records map[string]string
	for _, name := range strings.Split(string(names[:n]), "\x00") {
		if name == redirectXattr || name == metacopyXattr {
			return nil, fmt.Errorf("overlayfs has marked it with %s, which an archive cannot say: %w", name, errdefs.ErrFailedPrecondition)
		}
		if !keepXattr(name) {
			continue
		}
		value := make([]byte, maxXattrBytes)
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return nil, os.NewSyscallError("fgetxattr", err)
		}
		if records == nil {
			records = map[string]string{}
		}
		records[paxXattrPrefix+name] = string(value[:n])
	}
	return records, nil
}
