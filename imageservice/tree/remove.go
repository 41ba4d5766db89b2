// Package tree walks and removes directory trees that containers and image
// layers wrote: by file descriptor, never following a link, with bounded
// memory and descriptors however deep they are.
package tree

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"golang.org/x/sys/unix"
)

// maxOpenDepth bounds the descriptors a removal holds. What is deeper is moved
// up to the top of the tree and removed from there.
const maxOpenDepth = 64

// namesPerRead bounds the names held of one directory.
const namesPerRead = 1024

// Remove removes name and all that is below it from the directory dir. It is
// idempotent: a name that is not there is no error. Nothing but the remover may
// write to the tree.
func Remove(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EISDIR):
	case errors.Is(err, unix.EPERM):
		// An immutable file, or a directory on some file systems.
		clearFlags(int(dir.Fd()), name)
		if err := unix.Unlinkat(int(dir.Fd()), name, 0); err == nil {
			return nil
		}
	default:
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	top, err := openDir(int(dir.Fd()), name)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	r := &remover{top: top}
	defer top.Close()
	if err := r.empty(top, 1); err != nil {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	return r.rmdir(int(dir.Fd()), name)
}

// RemovePath is Remove for a path whose parent is trusted.
func RemovePath(parent, name string) error {
	dir, err := os.Open(parent)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return Remove(dir, name)
}

type remover struct {
	top   *os.File // where directories that are too deep are moved to
	moved int
}

// empty removes all that is in dir. Directories moved up to r.top while it is
// itself being read are met by a later pass.
func (r *remover) empty(dir *os.File, depth int) error {
	for {
		if _, err := dir.Seek(0, 0); err != nil {
			return err
		}
		removed := 0
		for {
			names, err := dir.Readdirnames(namesPerRead)
			for _, name := range names {
				if err := r.remove(dir, name, depth); err != nil {
					return err
				}
				removed++
			}
			if err != nil || len(names) == 0 {
				break
			}
		}
		if removed == 0 {
			return nil
		}
	}
}

func (r *remover) remove(dir *os.File, name string, depth int) error {
	if err := failpoint.Hit("tree/remove"); err != nil {
		return err
	}
	fd := int(dir.Fd())
	err := unix.Unlinkat(fd, name, 0)
	if errors.Is(err, unix.EPERM) {
		clearFlags(fd, name)
		clearFlags(fd, ".")
		err = unix.Unlinkat(fd, name, 0)
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	// Many directories are empty, and then this is all there is to do.
	if unix.Unlinkat(fd, name, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	if depth >= maxOpenDepth {
		return r.moveUp(fd, name)
	}
	sub, err := openDir(fd, name)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	err = r.empty(sub, depth+1)
	sub.Close()
	if err != nil {
		return err
	}
	return r.rmdir(fd, name)
}

func (r *remover) moveUp(fd int, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(fd, name, int(r.top.Fd()), ".moved-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}

func (r *remover) rmdir(fd int, name string) error {
	err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.EPERM) {
		clearFlags(fd, name)
		clearFlags(fd, ".")
		err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: name, Err: err}
	}
	return nil
}

func openDir(fd int, name string) (*os.File, error) {
	n, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), name), nil
}

// clearFlags takes the immutable and append-only flags off a file or directory:
// a privileged container can set them, and must not be able to keep its files
// from being removed.
func clearFlags(fd int, name string) {
	const immutable, appendOnly = 0x10, 0x20
	var st unix.Stat_t
	if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return
	}
	// Opening a device has effects of its own.
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return
	}
	n, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(n)
	flags, err := unix.IoctlGetInt(n, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&(immutable|appendOnly) == 0 {
		return
	}
	_ = unix.IoctlSetPointerInt(n, unix.FS_IOC_SETFLAGS, flags&^(immutable|appendOnly))
}
