package layer

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/idmap"
)

const (
	paxXattrPrefix  = "SCHILY.xattr."
	capabilityXattr = "security.capability"
	userXattrPrefix = "user."
	// userOverlayPrefix are the marks of overlayfs mounts without privileges.
	userOverlayPrefix = "user.overlay."
)

// keepXattr tells which extended attributes an archive may set. Those of
// overlayfs would let a layer change how others are seen; labels belong to the
// node's policy, not to the image.
func keepXattr(name string) bool {
	if name == capabilityXattr {
		return true
	}
	return strings.HasPrefix(name, userXattrPrefix) && !strings.HasPrefix(name, userOverlayPrefix) && len(name) > len(userXattrPrefix)
}

// The forms of security.capability (linux/capability.h): since revision 3 it ends with the
// root of the user namespace that the capabilities are for.
const (
	capabilityRevisionMask = 0xff000000
	capabilityRevision2    = 0x02000000
	capabilityRevision3    = 0x03000000
	capabilityRootAt       = 20
)

// capabilityInside translates a file's capabilities for the root of a user namespace into
// ones as that root has written them.
func capabilityInside(value string, ids idmap.Ranges) string {
	raw := []byte(value)
	if len(ids) == 0 || len(raw) != capabilityRootAt+4 {
		return value
	}
	magic := binary.LittleEndian.Uint32(raw)
	if magic&capabilityRevisionMask != capabilityRevision3 {
		return value
	}
	root := ids.Inside(binary.LittleEndian.Uint32(raw[capabilityRootAt:]))
	if root != 0 {
		binary.LittleEndian.PutUint32(raw[capabilityRootAt:], root)
		return string(raw)
	}
	binary.LittleEndian.PutUint32(raw, magic&^capabilityRevisionMask|capabilityRevision2)
	return string(raw[:capabilityRootAt])
}

// capabilityOutside is the other way round: it makes capabilities that the root of a user
// namespace has written ones for that root on the node. Those for a root that the namespace
// does not have are for its own, never for the node's.
func capabilityOutside(value string, ids idmap.Ranges) string {
	raw := []byte(value)
	if len(ids) == 0 || len(raw) != capabilityRootAt && len(raw) != capabilityRootAt+4 {
		return value
	}
	inside := uint32(0)
	if len(raw) > capabilityRootAt {
		inside = binary.LittleEndian.Uint32(raw[capabilityRootAt:])
	}
	root, mapped := ids.Outside(inside)
	if !mapped {
		root, _ = ids.Outside(0)
	}
	magic := binary.LittleEndian.Uint32(raw)
	binary.LittleEndian.PutUint32(raw, magic&^capabilityRevisionMask|capabilityRevision3)
	return string(binary.LittleEndian.AppendUint32(raw[:capabilityRootAt], root))
}

// SetXattrs gives an opened file those extended attributes of its entry that an archive may
// set, its capabilities for the root of the user namespace that ids are of. Errors are
// ErrHostile and those of the kernel.
func SetXattrs(fd int, hdr *tar.Header, ids idmap.Ranges) error {
	total := 0
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattrPrefix)
		if !ok || !keepXattr(name) {
			continue
		}
		if total += len(name) + len(value); total > maxXattrBytes {
			return fmt.Errorf("extended attributes of more than %d bytes: %w", maxXattrBytes, ErrHostile)
		}
		if name == capabilityXattr {
			value = capabilityOutside(value, ids)
		}
		err := unix.Fsetxattr(fd, name, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) && name != capabilityXattr {
			continue // the file system has none: nothing depends on them
		}
		if err != nil {
			return fmt.Errorf("set extended attribute %q: %w", name, err)
		}
	}
	return nil
}

// utimensat sets times by descriptor alone, which the package unix cannot say:
// its path is never nil.
func utimensat(fd int, base string, ts *[2]unix.Timespec) error {
	if base != "" {
		return unix.UtimesNanoAt(fd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW)
	}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
