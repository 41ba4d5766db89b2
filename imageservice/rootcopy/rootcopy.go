// Package rootcopy copies files between archives and the root file systems of containers.
//
// A container may run meanwhile, and may be hostile: any path can lead elsewhere from one
// moment to the next. So each is looked up by the kernel below the container's root
// (openat2, RESOLVE_IN_ROOT without magic links), what was opened is looked at before it is
// read or written, and no program and no library of the container is ever used. Links are
// followed as the container would, those in the place of a copied file never.
//
// File systems by which the kernel is asked and told things are out of bounds: a file in there
// means what its reader is, which is the daemon here.
package rootcopy

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// kernelFileSystems hold no files of the container.
var kernelFileSystems = map[uint32]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true,
	unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true, unix.SECURITYFS_MAGIC: true, unix.SELINUX_MAGIC: true, unix.SMACK_MAGIC: true,
	unix.BPF_FS_MAGIC: true, unix.EFIVARFS_MAGIC: true, unix.PSTOREFS_MAGIC: true, unix.NSFS_MAGIC: true, unix.DEVPTS_SUPER_MAGIC: true,
	unix.BINFMTFS_MAGIC: true, unix.RDTGROUP_SUPER_MAGIC: true, unix.AAFS_MAGIC: true, unix.BINDERFS_SUPER_MAGIC: true,
	0x62656570: true, // configfs
	0x65735543: true, // fusectl
	0x67596969: true, // rpc_pipefs
	0x6e667364: true, // nfsd
	0xabba1974: true, // xenfs
}

// ofKernel tells whether an opened file is out of bounds; so is what does not say.
func ofKernel(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) != nil || kernelFileSystems[uint32(st.Type)]
}

var errOfKernel = fmt.Errorf("it is in a file system of the kernel: %w", errdefs.ErrFailedPrecondition)

// openDir opens a directory below root, as a place that can only be gone on from or be read.
func openDir(root *os.File, name string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(root.Fd()), "./"+name, &how)
		// EAGAIN: something was renamed on the machine during the look-up.
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, kinded("open", name, err)
		}
		if ofKernel(fd) {
			unix.Close(fd)
			return nil, fmt.Errorf("open %q: %w", name, errOfKernel)
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// split parts a path into that of a directory and a name in it, which is "." for the root
// and for a path that says that it is a directory.
func split(name string) (dir, base string, err error) {
	if name == "" || len(name) >= unix.PathMax || strings.IndexByte(name, 0) >= 0 {
		return "", "", fmt.Errorf("path %.100q: %w", name, errdefs.ErrInvalidArgument)
	}
	i := strings.LastIndexByte(name, '/')
	dir, base = name[:i+1], name[i+1:]
	if base == "" || base == "." || base == ".." {
		return name, ".", nil
	}
	return dir, base, nil
}

// kinded gives an error of the kernel its kind.
func kinded(op, name string, err error) error {
	kind := map[error]error{
		unix.ENOENT: errdefs.ErrNotFound, unix.ENOTDIR: errdefs.ErrInvalidArgument, unix.EISDIR: errdefs.ErrInvalidArgument,
		unix.EEXIST: errdefs.ErrInvalidArgument, unix.ENOTEMPTY: errdefs.ErrInvalidArgument, unix.ENAMETOOLONG: errdefs.ErrInvalidArgument,
		unix.ELOOP: errdefs.ErrInvalidArgument, unix.EROFS: errdefs.ErrFailedPrecondition, unix.EBUSY: errdefs.ErrFailedPrecondition,
		unix.EXDEV: errdefs.ErrFailedPrecondition, unix.ENOSPC: errdefs.ErrResourceExhausted, unix.EDQUOT: errdefs.ErrResourceExhausted,
	}
	var errno unix.Errno
	err = &os.PathError{Op: op, Path: name, Err: err}
	if errors.As(err, &errno) && kind[errno] != nil {
		return fmt.Errorf("%w: %w", err, kind[errno])
	}
	return err
}
