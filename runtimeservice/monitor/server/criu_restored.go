package server

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/capability"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// restored checks processes that CRIU has made and left stopped. The kernel is asked what
// they are, not the archive: capabilities, seccomp and security module as the specification
// has them, its namespaces, and no mount that it does not have.
type restored struct {
	spec *specs.Spec
	init int
}

var errNotAllowed = fmt.Errorf("the specification does not allow it: %w", errdefs.ErrFailedPrecondition)

// checkProcess looks at each thread: they need not be alike.
func (r restored) checkProcess(pid int) error {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, entry := range threads {
		thread, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		if err := r.checkThread(thread); err != nil {
			return fmt.Errorf("thread %d: %w", thread, err)
		}
	}
	return nil
}

func (r restored) checkThread(pid int) error {
	state, err := statusOf(pid, "State")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(state, "T") && !strings.HasPrefix(state, "Z") {
		return fmt.Errorf("it is not stopped (%s): %w", state, errdefs.ErrFailedPrecondition)
	}
	if strings.HasPrefix(state, "Z") {
		return nil
	}
	return errors.Join(r.checkCapabilities(pid), r.checkConfinement(pid), r.checkNamespaces(pid))
}

// capabilitySets are the names in /proc/PID/status.
var capabilitySets = []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}

func (r restored) checkCapabilities(pid int) error {
	allowed, err := capabilityMask(r.spec.Process.Capabilities)
	if err != nil {
		return err
	}
	for _, set := range capabilitySets {
		text, err := statusOf(pid, set)
		if err != nil {
			return err
		}
		mask, err := strconv.ParseUint(text, 16, 64)
		if err != nil {
			return fmt.Errorf("read %s: %w", set, err)
		}
		if more := mask &^ allowed; more != 0 {
			return fmt.Errorf("its %s has capabilities %#x: %w", set, more, errNotAllowed)
		}
	}
	return nil
}

// capabilityMask is all that the specification gives in any set.
func capabilityMask(c *specs.LinuxCapabilities) (uint64, error) {
	var mask uint64
	if c == nil {
		return 0, nil
	}
	for _, name := range slices.Concat(c.Bounding, c.Effective, c.Inheritable, c.Permitted, c.Ambient) {
		known := capability.ListKnown()
		at := slices.IndexFunc(known, func(k capability.Cap) bool { return "CAP_"+strings.ToUpper(k.String()) == name })
		if at < 0 {
			return 0, fmt.Errorf("capability %q is not known: %w", name, errdefs.ErrInvalidArgument)
		}
		mask |= 1 << known[at]
	}
	return mask, nil
}

func (r restored) checkConfinement(pid int) error {
	for _, want := range []struct {
		key, value string
		applies    bool
	}{
		{"Seccomp", "2", r.spec.Linux.Seccomp != nil},
		{"NoNewPrivs", "1", r.spec.Process.NoNewPrivileges},
	} {
		if !want.applies {
			continue
		}
		if value, err := statusOf(pid, want.key); err != nil || value != want.value {
			return fmt.Errorf("its %s is %q, not %q, %w: %w", want.key, value, want.value, errNotAllowed, errors.Join(err))
		}
	}
	label := r.spec.Process.ApparmorProfile
	if label == "" {
		label = r.spec.Process.SelinuxLabel
	}
	if label == "" || label == "unconfined" {
		return nil
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pid))
	if err != nil {
		return fmt.Errorf("read its security label: %w", err)
	}
	have := strings.TrimRight(string(data), "\x00\n")
	if name, _, _ := strings.Cut(have, " ("); name != label {
		return fmt.Errorf("its security label is %q, not %q: %w", have, label, errNotAllowed)
	}
	return nil
}

// namespaceFiles are the names below /proc/PID/ns.
var namespaceFiles = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
	specs.PIDNamespace: "pid", specs.MountNamespace: "mnt", specs.UserNamespace: "user",
}

// checkNamespaces sees to it that the process is in the namespaces that the specification
// names, in none of the node's that it does not share, and in the node's user namespace
// where it has no other.
func (r restored) checkNamespaces(pid int) error {
	for kind, file := range namespaceFiles {
		at := slices.IndexFunc(r.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		own := fmt.Sprintf("/proc/%d/ns/%s", pid, file)
		expected, want := "/proc/self/ns/"+file, true
		switch {
		case at >= 0 && r.spec.Linux.Namespaces[at].Path != "":
			expected = r.spec.Linux.Namespaces[at].Path
		case at >= 0:
			want = false
		}
		same, err := sameFile(own, expected)
		if err != nil {
			return fmt.Errorf("look at its %s namespace: %w", file, err)
		}
		if same != want {
			return fmt.Errorf("its %s namespace is another one: %w", file, errNotAllowed)
		}
	}
	return nil
}

func sameFile(a, b string) (bool, error) {
	var x, y unix.Stat_t
	if err := unix.Stat(a, &x); err != nil {
		return false, &os.PathError{Op: "stat", Path: a, Err: err}
	}
	if err := unix.Stat(b, &y); err != nil {
		return false, &os.PathError{Op: "stat", Path: b, Err: err}
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}

// checkMounts compares the mounts of the container with those that its specification has.
func (r restored) checkMounts() error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", r.init))
	if err != nil {
		return err
	}
	defer f.Close()
	all, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return fmt.Errorf("read its mounts: %w", err)
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", r.init), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open its root: %w", err)
	}
	defer unix.Close(root)
	points, err := r.mountpoints(root)
	if err != nil {
		return err
	}
	present := map[string]*mountinfo.Info{}
	for _, m := range all {
		present[m.Mountpoint] = m
		if err := r.checkMount(root, m, points); err != nil {
			return fmt.Errorf("mount %q (%s): %w", m.Mountpoint, m.FSType, err)
		}
	}
	return r.checkMissing(root, points, present)
}

// mountpoints are the mounts of the specification by where they are in the container,
// whose links can lead elsewhere than the specification says.
func (r restored) mountpoints(root int) (map[string]specs.Mount, error) {
	points := map[string]specs.Mount{}
	for _, m := range r.spec.Mounts {
		at, err := resolve(root, m.Destination)
		if err != nil {
			return nil, fmt.Errorf("mount %q is missing: %w: %w", m.Destination, err, errNotAllowed)
		}
		points[at] = m
	}
	return points, nil
}

// resolve is the path in the container that a name leads to.
func resolve(root int, name string) (string, error) {
	fd, err := openInRoot(root, name)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}

func openInRoot(root int, name string) (int, error) {
	return unix.Openat2(root, cmp.Or(strings.TrimPrefix(path.Clean("/"+name), "/"), "."), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// checkMount fails for a mount that the specification does not have.
func (r restored) checkMount(root int, m *mountinfo.Info, points map[string]specs.Mount) error {
	if m.Mountpoint == "/" {
		return sameAs(root, "/", r.spec.Root.Path)
	}
	if want, ok := points[m.Mountpoint]; ok {
		switch {
		case isBind(want):
			return sameAs(root, m.Mountpoint, want.Source)
		case want.Type == "cgroup":
			return checkCgroupType(m.FSType)
		case want.Type == m.FSType:
			return nil
		}
		return errNotAllowed
	}
	for at, want := range points {
		rest, within := strings.CutPrefix(m.Mountpoint, strings.TrimSuffix(at, "/")+"/")
		switch {
		case within && want.Type == "cgroup":
			return checkCgroupType(m.FSType)
		case within && slices.Contains(want.Options, "rbind"):
			return sameAs(root, m.Mountpoint, filepath.Join(want.Source, rest))
		}
	}
	switch {
	case slices.Contains(r.spec.Linux.MaskedPaths, m.Mountpoint):
		if m.FSType == "tmpfs" {
			return nil
		}
		return sameAs(root, m.Mountpoint, "/dev/null")
	case slices.Contains(r.spec.Linux.ReadonlyPaths, m.Mountpoint) && (m.FSType == "proc" || m.FSType == "sysfs"):
		return nil
	case m.Mountpoint == "/dev/console" && m.FSType == "devpts":
		return nil
	}
	return errNotAllowed
}

// checkMissing fails if there is less than the specification has: a mount, the mask of a
// path, or that something is read-only.
func (r restored) checkMissing(root int, points map[string]specs.Mount, present map[string]*mountinfo.Info) error {
	readonly := map[string]bool{}
	if r.spec.Root.Readonly {
		readonly["/"] = true
	}
	for at, m := range points {
		readonly[at] = slices.Contains(m.Options, "ro")
	}
	for i, list := range [][]string{r.spec.Linux.MaskedPaths, r.spec.Linux.ReadonlyPaths} {
		for _, p := range list {
			if at, err := resolve(root, p); err == nil {
				readonly[at] = i == 1
			}
		}
	}
	for at, ro := range readonly {
		m := present[at]
		if m == nil {
			return fmt.Errorf("mount at %q is missing: %w", at, errNotAllowed)
		}
		if ro && !slices.Contains(strings.Split(m.Options, ","), "ro") {
			return fmt.Errorf("mount at %q is not read-only: %w", at, errNotAllowed)
		}
	}
	return nil
}

// checkCgroupType allows what a mount of cgroups consists of.
func checkCgroupType(have string) error {
	if have == "cgroup" || have == "cgroup2" || have == "tmpfs" {
		return nil
	}
	return errNotAllowed
}

// sameAs fails unless name below root is the file of a path on the node. No link of the
// container's leads out of it.
func sameAs(root int, name, source string) error {
	fd, err := openInRoot(root, name)
	if err != nil {
		return fmt.Errorf("open it: %w", err)
	}
	defer unix.Close(fd)
	same, err := sameFile("/proc/self/fd/"+strconv.Itoa(fd), source)
	if err != nil {
		return err
	}
	if !same {
		return fmt.Errorf("it is not of %q: %w", source, errNotAllowed)
	}
	return nil
}
