package spec

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CheckPropagation is for a mount that no request asks for: bothWays stands for one
// whose mounts also leave the container. The error is ErrFailedPrecondition.
func CheckPropagation(source string, bothWays bool) error {
	want := runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	if bothWays {
		want = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return checkPropagation("mount propagation", source, want)
}

// checkPropagation refuses a propagation that the mount under source cannot
// carry: mounts reach the container only from a shared or slave mount, and leave
// it only into a shared one.
func checkPropagation(field, source string, want runtimeapi.MountPropagation) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, source, unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st); err != nil {
		return fmt.Errorf("%s: look at %q: %w", field, source, err)
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		where, shared, slave, ok := parseMountinfo(lines.Text(), st.Mnt_id)
		switch {
		case !ok:
			continue
		case shared, slave && want == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			return nil
		case want == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			return precondition(field, "%q is on %q, which is not a shared or slave mount", source, where)
		default:
			return precondition(field, "%q is on %q, which is not a shared mount", source, where)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: read mountinfo: %w", field, err)
	}
	return precondition(field, "the mount of %q went away", source)
}

// parseMountinfo reads a line of /proc/self/mountinfo (proc(5)) if it is that of
// the mount id.
func parseMountinfo(line string, id uint64) (mountpoint string, shared, slave, ok bool) {
	first, rest, _ := strings.Cut(line, " ")
	if n, err := strconv.ParseUint(first, 10, 64); err != nil || n != id {
		return "", false, false, false
	}
	f := strings.Fields(rest)
	if len(f) < 5 {
		return "", false, false, false
	}
	// parent, device, root, mount point, options, then tags up to "-".
	for _, tag := range f[5:] {
		if tag == "-" {
			break
		}
		shared = shared || strings.HasPrefix(tag, "shared:")
		slave = slave || strings.HasPrefix(tag, "master:")
	}
	return f[3], shared, slave, true
}
