// Package inventory writes down what a directory tree holds, so that it can be told
// later whether it still does: names, types, owners, modes, times, extended
// attributes, hard links, and a checksum of each file's content.
//
// The checksum is xxHash, 64 bits. It finds what a disk or a hand has changed and
// costs a tenth of a cryptographic one; it does not withstand somebody who forges
// files for it. Whoever can write to the tree can write to the inventory as well, so
// nothing would be gained there.
//
// Two trees that were unpacked from the same archive have equal inventories, on any
// file system.
package inventory

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry describes one name of a tree.
type Entry struct {
	Path     string // below the root, "." for the root itself
	Mode     uint32 // type and permissions, as in stat(2)
	UID, GID uint32
	Size     int64  // of regular files
	Sec      int64  // of the modification time
	Nsec     uint32 // of the modification time
	Rdev     uint64 // of devices
	// Link is the target of a symbolic link.
	Link string
	// Hard is the first name of the same file, for all but that one.
	Hard   string
	Xattrs []Xattr // in the order of their names
	// Sum is that of the content of a regular file, for the first of its names.
	Sum uint64
}

// Xattr is an extended attribute.
type Xattr struct{ Name, Value string }

// less orders entries as a walk meets them: a directory before what is in it, names
// by their bytes.
func less(a, b string) bool {
	if a == "." || b == "." {
		return a == "." && b != "."
	}
	for i := 0; i < len(a) && i < len(b); i++ {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		return x == '/' || y != '/' && x < y
	}
	return len(a) < len(b)
}

// Difference is a name of which the tree does not hold what the inventory says.
type Difference struct {
	Path string
	What string
}

func (d Difference) String() string { return d.Path + ": " + d.What }

// compare returns what differs, "" for nothing.
func compare(want, got *Entry) string {
	if want.Mode&unix.S_IFMT != got.Mode&unix.S_IFMT {
		return fmt.Sprintf("is a %s, not a %s", kind(got.Mode), kind(want.Mode))
	}
	var what []string
	differ := func(name string, want, got any) {
		if want != got {
			what = append(what, fmt.Sprintf("%s is %v, not %v", name, got, want))
		}
	}
	differ("mode", fmt.Sprintf("%04o", want.Mode&0o7777), fmt.Sprintf("%04o", got.Mode&0o7777))
	differ("owner", fmt.Sprint(want.UID, ":", want.GID), fmt.Sprint(got.UID, ":", got.GID))
	differ("size", want.Size, got.Size)
	differ("time", [2]int64{want.Sec, int64(want.Nsec)}, [2]int64{got.Sec, int64(got.Nsec)})
	differ("device", want.Rdev, got.Rdev)
	differ("link target", want.Link, got.Link)
	differ("first name", want.Hard, got.Hard)
	if fmt.Sprint(want.Xattrs) != fmt.Sprint(got.Xattrs) {
		what = append(what, "extended attributes differ")
	}
	if want.Sum != got.Sum && want.Size == got.Size {
		what = append(what, "content differs")
	}
	return strings.Join(what, ", ")
}

func kind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFIFO:
		return "FIFO"
	}
	return "socket"
}
