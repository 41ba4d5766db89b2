package hostpath

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// anyMayHang tells whether the node has a mount that might not answer.
func anyMayHang() (bool, error) {
	found := false
	err := mounts(func(m Mount) bool {
		found = m.MayHang()
		return !found
	})
	return found, err
}

// Mount is one of the daemon's mount namespace.
type Mount struct {
	ID uint64
	// Point is where it is, Type the file system's.
	Point, Type string
	// Shared mounts pass on what is mounted in them, slave ones get it.
	Shared, Slave bool
}

// FindMount returns the mount of that ID; false if it is gone.
func FindMount(id uint64) (found Mount, ok bool, err error) {
	err = mounts(func(m Mount) bool {
		if m.ID == id {
			found, ok = m, true
		}
		return !ok
	})
	return found, ok, err
}

// mounts yields the mounts that /proc/self/mountinfo has (proc(5)), until yield returns false.
func mounts(yield func(Mount) bool) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if m, ok := parseMount(lines.Text()); ok && !yield(m) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read mountinfo: %w", err)
	}
	return nil
}

// parseMount reads a line: ID, parent, device, root, mount point, options, tags up to "-",
// type, source, the file system's options.
func parseMount(line string) (Mount, bool) {
	f := strings.Fields(line)
	if len(f) < 9 {
		return Mount{}, false
	}
	id, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return Mount{}, false
	}
	m := Mount{ID: id, Point: f[4]}
	for i, tag := range f[6:] {
		if tag == "-" && len(f) > 6+i+1 {
			m.Type = f[6+i+1]
			break
		}
		m.Shared = m.Shared || strings.HasPrefix(tag, "shared:")
		m.Slave = m.Slave || strings.HasPrefix(tag, "master:")
	}
	return m, true
}

// MayHang tells whether the file system is served by a program or a network, either of which
// may stop answering.
func (m Mount) MayHang() bool {
	kind, _, _ := strings.Cut(m.Type, ".")
	switch kind {
	case "fuse", "fuseblk", "virtiofs", "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "coda", "orangefs",
		"lustre", "gpfs", "beegfs", "gfs2", "ocfs2", "autofs":
		return true
	}
	return false
}
