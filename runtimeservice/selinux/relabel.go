package selinux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	labelAttribute = "security.selinux"
	// maxDepth bounds the directories within each other of a volume; each costs a
	// descriptor while its entries are labelled.
	maxDepth = 256
	// entriesAtATime bounds the names of a directory in memory.
	entriesAtATime = 512
)

// system are directories of the node's own system: with the label of a container
// nothing there would work for the node any more, and all of it for the container.
var system = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr"}

// alone are directories that hold what is not only a volume's; what is in them may
// be one.
var alone = []string{"/var/cache", "/var/lib", "/var/lib/kubelet", "/var/lib/kubelet/pods", "/var/log", "/var/log/pods", "/var/run", "/var/spool", "/var/tmp"}

// Relabel gives the file or directory at path, and all in it, the label; it is
// idempotent and writes only where another label is. It stays on the file system of path, and
// who changes the directory meanwhile cannot lead it elsewhere. A file system that
// keeps no labels is no error.
//
// path is resolved: a link on the way is an error, one at its end is labelled itself. The node's system directories, /, and
// all directly below it are InvalidArgument.
func Relabel(ctx context.Context, path, label string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	err := relabelAt(ctx, unix.AT_FDCWD, path, label, unix.RESOLVE_NO_SYMLINKS, 0)
	if err != nil {
		return fmt.Errorf("label %q as %s: %w", path, label, err)
	}
	return nil
}

func checkPath(path string) error {
	clean := filepath.Clean(path)
	forbidden := !filepath.IsAbs(path) || strings.Count(clean, "/") == 1
	for _, dir := range system {
		forbidden = forbidden || clean == dir || strings.HasPrefix(clean, dir+"/")
	}
	for _, dir := range alone {
		forbidden = forbidden || clean == dir
	}
	if forbidden {
		return fmt.Errorf("%q is no volume, it is not given the SELinux label of a container: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// relabelAt labels what name is in the directory dir, and what is in that.
func relabelAt(ctx context.Context, dir int, name, label string, resolve uint64, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("more than %d directories within each other: %w", maxDepth, errdefs.ErrResourceExhausted)
	}
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	isDir, err := setLabel(fd, label)
	if err != nil || !isDir {
		unix.Close(fd)
		return err
	}
	entries, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	unix.Close(fd)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(entries), name)
	defer f.Close()
	return relabelEntries(ctx, f, label, depth+1)
}

func relabelEntries(ctx context.Context, dir *os.File, label string, depth int) error {
	for {
		names, err := dir.Readdirnames(entriesAtATime)
		for _, name := range names {
			err := relabelAt(ctx, int(dir.Fd()), name, label, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV, depth)
			// Gone by now, or another file system mounted there.
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EXDEV) {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("list %q: %w", dir.Name(), err)
		}
	}
}

// setLabel labels what fd refers to, itself if it is a link, and tells whether it is
// a directory that is to be gone through: not one of a file system without labels.
func setLabel(fd int, label string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, fmt.Errorf("stat: %w", err)
	}
	// The link in /proc is followed, and what it leads to is not.
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	have := make([]byte, len(label)+2)
	n, err := unix.Getxattr(path, labelAttribute, have)
	if err == nil && string(bytes.TrimRight(have[:n], "\x00")) == label {
		return isDir, nil
	}
	switch err := unix.Setxattr(path, labelAttribute, []byte(label), 0); {
	case errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("set %s: %w", labelAttribute, err)
	}
	return isDir, nil
}
