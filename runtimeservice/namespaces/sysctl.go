package namespaces

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxSysctlValue is what the kernel takes in one write of a sysctl: a page.
const maxSysctlValue = 4095

// sysctl is a setting to write.
type sysctl struct {
	key   string // as the pod wrote it
	path  string // below /proc/sys
	value string
	// byDefault is ours: a kernel without it is no error.
	byDefault bool
}

// podDefaults are the settings of a pod's own network namespace.
func podDefaults() []sysctl {
	defaults := []sysctl{
		// A pod that can send router advertisements must not become its neighbours'
		// router (CVE-2020-10749). "default" is what eth0 gets when it is moved in.
		{path: "net/ipv6/conf/all/accept_ra", value: "0"},
		{path: "net/ipv6/conf/default/accept_ra", value: "0"},
		// The capabilities for these only protect ports and sockets of the node.
		{path: "net/ipv4/ip_unprivileged_port_start", value: "0"},
		{path: "net/ipv4/ping_group_range", value: "0 2147483647"},
	}
	for i := range defaults {
		defaults[i].key = defaults[i].path
		defaults[i].byDefault = true
	}
	return defaults
}

// ValidateSysctls reports the first key, in alphabetical order, that a pod may not set, as
// ErrInvalidArgument. A pod may set what belongs to a namespace of its own: net.* with its own
// network namespace; kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* with its own IPC
// namespace. The host name has its own field in the CRI, so kernel.hostname and
// kernel.domainname are refused. Keys have the form of sysctl(8), a.b.c or a/b/c.
func ValidateSysctls(sysctls map[string]string, network, ipc bool) error {
	_, err := parseSysctls(sysctls, network, ipc)
	return err
}

func parseSysctls(sysctls map[string]string, network, ipc bool) ([]sysctl, error) {
	keys := make([]string, 0, len(sysctls))
	for key := range sysctls {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	parsed := make([]sysctl, 0, len(keys))
	seen := make(map[string]string)
	for _, key := range keys {
		path, err := sysctlPath(key)
		if err != nil {
			return nil, refused(key, err.Error())
		}
		if other, ok := seen[path]; ok {
			return nil, refused(key, fmt.Sprintf("it is set twice, also as %q", other))
		}
		seen[path] = key
		if reason := forbidden(path, network, ipc); reason != "" {
			return nil, refused(key, reason)
		}
		value := sysctls[key]
		if reason := badValue(value); reason != "" {
			return nil, refused(key, reason)
		}
		parsed = append(parsed, sysctl{key: key, path: path, value: value})
	}
	// The general before the particular: net.ipv4.ip_forward overwrites every
	// net.ipv4.conf.*.forwarding.
	slices.SortStableFunc(parsed, func(a, b sysctl) int {
		return strings.Count(a.path, "/") - strings.Count(b.path, "/")
	})
	return parsed, nil
}

func refused(key, reason string) error {
	return fmt.Errorf("sysctl %q: %s: %w", key, reason, errdefs.ErrInvalidArgument)
}

// sysctlPath turns a key into a path below /proc/sys. As in sysctl.d(5) the separator that
// comes first decides: net/ipv4/conf/eth0.7/forwarding has a dot in an interface's name, and
// so has net.ipv4.conf.eth0/7.forwarding.
func sysctlPath(key string) (string, error) {
	path := key
	if first := strings.IndexAny(key, "./"); first >= 0 && key[first] == '.' {
		path = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	parts := strings.Split(path, "/")
	if len(parts) < 2 {
		return "", errors.New("it has no group, as in net.core.somaxconn")
	}
	for _, part := range parts {
		if part == "" || part == "." || strings.Contains(part, "..") {
			return "", errors.New("a part of it is empty, or is dots")
		}
		for _, r := range part {
			if !isKeyRune(r) {
				return "", fmt.Errorf("%q cannot be in a key", r)
			}
		}
	}
	return path, nil
}

func isKeyRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
}

// forbidden says why a pod may not set path, or "".
func forbidden(path string, network, ipc bool) string {
	switch {
	case path == "kernel/hostname", path == "kernel/domainname":
		return "the host name is set by the pod's configuration, not by a sysctl"
	case strings.HasPrefix(path, "net/"):
		if !network {
			return "the pod shares the node's network namespace"
		}
	case isIPCSysctl(path):
		if !ipc {
			return "the pod shares the node's IPC namespace"
		}
	default:
		return "it belongs to no namespace, so it would change the node"
	}
	return ""
}

func isIPCSysctl(path string) bool {
	if strings.HasPrefix(path, "fs/mqueue/") || path == "kernel/sem" {
		return true
	}
	name, ok := strings.CutPrefix(path, "kernel/")
	return ok && !strings.Contains(name, "/") && (strings.HasPrefix(name, "shm") || strings.HasPrefix(name, "msg"))
}

// badValue says why value cannot be written, or "". The plus sign has no use in a value; it
// once separated settings in another runtime's helper, which made one setting into two.
func badValue(value string) string {
	if value == "" {
		return "it has no value"
	}
	if len(value) > maxSysctlValue {
		return fmt.Sprintf("its value is longer than %d bytes", maxSysctlValue)
	}
	for _, r := range value {
		if r == '+' || r != '\t' && r < ' ' || r > '~' {
			return fmt.Sprintf("%q cannot be in a value", r)
		}
	}
	return ""
}

// applySysctls writes settings in the namespaces of the calling thread, which belong to the
// user owner. The node's root may not write those of another's IPC namespace, on kernels
// that let its owner do it (Linux 6.9).
func applySysctls(sysctls []sysctl, owner uint32) error {
	if len(sysctls) == 0 {
		return nil
	}
	root, err := openSysctls()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	for _, s := range sysctls {
		err := writeSysctl(root, s)
		if owner != 0 && errors.Is(err, unix.EACCES) {
			err = asUser(owner, func() error { return writeSysctl(root, s) })
		}
		if s.byDefault && errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return sysctlError(s, err)
		}
	}
	return nil
}

// openSysctls opens the kernel's sysctls through an instance of procfs that is mounted nowhere:
// what lies over /proc on the node has no part in it (CVE-2025-52881).
func openSysctls() (int, error) {
	mount, err := detached("proc")
	if err != nil {
		return -1, err
	}
	defer unix.Close(mount)
	root, err := unix.Openat(mount, "sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open the sysctls: %w", err)
	}
	return root, nil
}

func writeSysctl(root int, s sysctl) error {
	file, err := unix.Openat2(root, s.path, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return err
	}
	defer unix.Close(file)
	_, err = unix.Write(file, []byte(s.value))
	return err
}

// sysctlError gives a failed write its kind: the pod's mistake, or the node's state.
func sysctlError(s sysctl, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return refused(s.key, "this kernel has none of that name in the pod's namespaces")
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.EISDIR):
		return refused(s.key, fmt.Sprintf("the kernel does not take %q: %v", s.value, err))
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("sysctl %q cannot be set in a pod: %w: %w", s.key, err, errdefs.ErrPermissionDenied)
	}
	return fmt.Errorf("sysctl %q: %w: %w", s.key, err, errdefs.ErrFailedPrecondition)
}
