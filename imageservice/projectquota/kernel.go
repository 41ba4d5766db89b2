package projectquota

import (
	"encoding/binary"
	"errors"
	"os"
	"unsafe"

	"github.com/berth-cri/berth/imageservice/tree"
	"golang.org/x/sys/unix"
)

// The commands of quotactl(2) that XFS brought, which ext4 answers too, and what they
// take: linux/quota.h and linux/dqblk_xfs.h.
const (
	prjQuota = 2

	xGetQuota = 'X'<<8 + 3
	xSetLimit = 'X'<<8 + 4
	xGetState = 'X'<<8 + 5

	stateAccounted = 1 << 4 // FS_QUOTA_PDQ_ACCT
	stateEnforced  = 1 << 5 // FS_QUOTA_PDQ_ENFD

	diskQuotaVersion = 1
	diskQuotaProject = 1 << 1
	fieldBlockSoft   = 1 << 2
	fieldBlockHard   = 1 << 3

	basicBlock = 512 // what blocks are counted in, whatever those of the file system are
)

// diskQuota is struct fs_disk_quota.
type diskQuota struct {
	version, flags               int8
	fieldmask                    uint16
	id                           uint32
	blockHard, blockSoft         uint64
	inodeHard, inodeSoft         uint64
	blocks, inodes               uint64
	inodeTimer, blockTimer       int32
	inodeWarnings, blockWarnings uint16
	timersHigh                   [4]int8
	realtimeHard, realtimeSoft   uint64
	realtimeBlocks               uint64
	realtimeTimer                int32
	realtimeWarnings             uint16
	_                            [10]byte
}

// fsxattr of linux/fs.h, and the ioctls that get and set it.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

const (
	ioctlGetXattr    = 0x801c581f // FS_IOC_FSGETXATTR
	ioctlSetXattr    = 0x401c5820 // FS_IOC_FSSETXATTR
	xflagProjInherit = 0x200
)

// state tells whether a file system counts by project, and whether it keeps limits.
func state(dir string) (accounted, enforced bool, err error) {
	var stat [128]byte // struct fs_quota_stat, whose flags are all that is read
	err = quotactl(dir, xGetState, 0, unsafe.Pointer(&stat))
	flags := binary.NativeEndian.Uint16(stat[2:])
	return flags&stateAccounted != 0, flags&stateEnforced != 0, err
}

func usage(dir string, id uint32) (tree.Usage, error) {
	var q diskQuota
	err := quotactl(dir, xGetQuota, id, unsafe.Pointer(&q))
	if errors.Is(err, unix.ENOENT) {
		return tree.Usage{}, nil // never used
	}
	return tree.Usage{Bytes: q.blocks * basicBlock, Inodes: q.inodes}, err
}

func setLimit(dir string, id uint32, bytes uint64) error {
	q := diskQuota{
		version: diskQuotaVersion, flags: diskQuotaProject, id: id,
		fieldmask: fieldBlockHard | fieldBlockSoft, blockHard: (bytes + basicBlock - 1) / basicBlock,
	}
	return quotactl(dir, xSetLimit, id, unsafe.Pointer(&q))
}

// quotactl is quotactl_fd(2), which takes a place on the file system where quotactl(2)
// takes the node of its device.
func quotactl(dir string, command int, id uint32, data unsafe.Pointer) error {
	return withDir(dir, func(fd uintptr) error {
		_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, fd, uintptr(command<<8|prjQuota), uintptr(id), uintptr(data), 0, 0)
		if errno != 0 {
			return os.NewSyscallError("quotactl_fd", errno)
		}
		return nil
	})
}

func attributes(dir string) (attr fsxattr, err error) {
	err = withDir(dir, func(fd uintptr) error { return ioctl(fd, ioctlGetXattr, &attr) })
	return attr, err
}

// setProject has a directory, and what is made in it, belong to a project.
func setProject(dir string, id uint32) error {
	return withDir(dir, func(fd uintptr) error {
		var attr fsxattr
		if err := ioctl(fd, ioctlGetXattr, &attr); err != nil {
			return err
		}
		attr.projid = id
		attr.xflags |= xflagProjInherit
		return ioctl(fd, ioctlSetXattr, &attr)
	})
}

func ioctl(fd uintptr, request uintptr, attr *fsxattr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(attr))); errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}

func withDir(dir string, do func(fd uintptr) error) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		err = do(uintptr(fd))
		unix.Close(fd)
	}
	if err != nil {
		return &os.PathError{Op: "quota", Path: dir, Err: err}
	}
	return nil
}
