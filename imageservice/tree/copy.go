package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxCopyDepth bounds the descriptors that a copy holds, two for each level.
const maxCopyDepth = 512

// maxXattrs bounds the extended attributes that are copied of one file.
const maxXattrs = 64 << 10

// Copy copies what is in the directory from, and its owner, mode, times and
// extended attributes, into the directory to, which is empty. Links are copied and
// never followed; names of one file stay that. A tree deeper than 512 directories
// is errdefs.ErrInvalidArgument.
func Copy(ctx context.Context, from, to *os.File) error {
	c := copier{ctx: ctx, root: to, linked: map[uint64]string{}}
	return c.dir(from, to, "", 1)
}

type copier struct {
	ctx  context.Context
	root *os.File
	// linked maps inodes with several names to where they were copied.
	linked map[uint64]string
}

// dir copies a directory; name is that of the copy below the root.
func (c *copier) dir(from, to *os.File, name string, depth int) error {
	if depth > maxCopyDepth {
		return fmt.Errorf("copy %q: more than %d directories deep: %w", name, maxCopyDepth, errdefs.ErrInvalidArgument)
	}
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		names, err := from.Readdirnames(namesPerRead)
		for _, entry := range names {
			if err := c.entry(from, to, entry, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("copy %q: %w", name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return fmt.Errorf("copy %q: %w", name, err)
	}
	if err := copyAttributes(from, to, &st); err != nil {
		return fmt.Errorf("copy attributes of %q: %w", name, err)
	}
	return nil
}

func (c *copier) entry(from, to *os.File, entry, parent string, depth int) error {
	name := strings.TrimPrefix(parent+"/"+entry, "/")
	var st unix.Stat_t
	if err := unix.Fstatat(int(from.Fd()), entry, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "copy", Path: name, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if st.Nlink > 1 && kind != unix.S_IFDIR {
		if first, ok := c.linked[st.Ino]; ok {
			if err := unix.Linkat(int(c.root.Fd()), first, int(to.Fd()), entry, 0); err != nil {
				return &os.PathError{Op: "link", Path: name, Err: err}
			}
			return nil
		}
		c.linked[st.Ino] = name
	}
	var err error
	switch kind {
	case unix.S_IFDIR:
		return c.subdir(from, to, entry, name, depth)
	case unix.S_IFREG:
		err = copyFile(from, to, entry, &st)
	case unix.S_IFLNK:
		err = copyLink(from, to, entry, &st)
	default:
		err = copyNode(to, entry, &st)
	}
	if err != nil {
		return &os.PathError{Op: "copy", Path: name, Err: err}
	}
	return nil
}

func (c *copier) subdir(from, to *os.File, entry, name string, depth int) error {
	if err := unix.Mkdirat(int(to.Fd()), entry, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	source, err := openDir(int(from.Fd()), entry)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer source.Close()
	target, err := openDir(int(to.Fd()), entry)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer target.Close()
	return c.dir(source, target, name, depth+1)
}

func copyFile(from, to *os.File, entry string, st *unix.Stat_t) error {
	in, err := unix.Openat(int(from.Fd()), entry, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	source := os.NewFile(uintptr(in), entry)
	defer source.Close()
	out, err := unix.Openat(int(to.Fd()), entry, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	target := os.NewFile(uintptr(out), entry)
	_, err = io.Copy(target, source)
	if err == nil {
		err = copyAttributes(source, target, st)
	}
	return errors.Join(err, target.Close())
}

func copyLink(from, to *os.File, entry string, st *unix.Stat_t) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(from.Fd()), entry, buf)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(buf[:n]), int(to.Fd()), entry); err != nil {
		return err
	}
	if err := unix.Fchownat(int(to.Fd()), entry, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return setTimes(to, entry, st)
}

// copyNode makes a device, FIFO or socket like that of st.
func copyNode(to *os.File, entry string, st *unix.Stat_t) error {
	dir := int(to.Fd())
	if err := unix.Mknodat(dir, entry, st.Mode&unix.S_IFMT|0o600, int(st.Rdev)); err != nil {
		return err
	}
	if err := unix.Fchownat(dir, entry, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	// What was just made is no link, and nobody else writes there.
	if err := unix.Fchmodat(dir, entry, st.Mode&0o7777, 0); err != nil {
		return err
	}
	return setTimes(to, entry, st)
}

func setTimes(dir *os.File, entry string, st *unix.Stat_t) error {
	return unix.UtimesNanoAt(int(dir.Fd()), entry, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyAttributes copies the owner first: a change of owner takes set-user-ID bits
// and file capabilities away.
func copyAttributes(from, to *os.File, st *unix.Stat_t) error {
	fd := int(to.Fd())
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(int(from.Fd()), fd); err != nil {
		return err
	}
	return unix.Futimes(fd, []unix.Timeval{unix.NsecToTimeval(st.Atim.Nano()), unix.NsecToTimeval(st.Mtim.Nano())})
}

// copyXattrs copies what a container could set itself: its own attributes and
// file capabilities. Labels are given by whoever mounts the copy.
func copyXattrs(from, to int) error {
	buf := make([]byte, maxXattrs)
	n, err := unix.Flistxattr(from, buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, maxXattrs)
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" {
			continue
		}
		m, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			return fmt.Errorf("read attribute %s: %w", name, err)
		}
		if err := unix.Fsetxattr(to, name, value[:m], 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return nil
}
