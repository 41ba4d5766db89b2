package server

import (
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// withoutMappings leaves out the mappings of a user namespace that is joined:
// libcontainer reads them there, and complains about those it is told. Other
// runtimes are told.
func withoutMappings(spec *specs.Spec) *specs.Spec {
	joins := slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.UserNamespace && n.Path != ""
	})
	if !joins {
		return spec
	}
	next, linux := *spec, *spec.Linux
	linux.UIDMappings, linux.GIDMappings = nil, nil
	next.Linux = &linux
	return &next
}

// forUserNamespace adapts the configuration of a container that joins a user
// namespace.
func forUserNamespace(config *configs.Config) error {
	path := config.Namespaces.PathOf(configs.NEWUSER)
	if path == "" {
		return nil
	}
	shareMapping(config, path)
	return checkBoundDevices(config)
}

// shareMapping has mounts that are mapped like the container itself take its user
// namespace. For one of their own libcontainer starts a process on each start.
func shareMapping(config *configs.Config, path string) {
	for _, m := range config.Mounts {
		if m.IDMapping != nil && slices.Equal(m.IDMapping.UIDMappings, config.UIDMappings) &&
			slices.Equal(m.IDMapping.GIDMappings, config.GIDMappings) {
			m.IDMapping = &configs.MountIDMapping{Recursive: m.IDMapping.Recursive, UserNSPath: path}
		}
	}
}

// checkBoundDevices compares the container's devices with the node's of the same
// path. In a user namespace libcontainer makes no nodes: it mounts what the node
// has at that path, whatever that is.
func checkBoundDevices(config *configs.Config) error {
	for _, d := range config.Devices {
		if d.Path == "" {
			continue // only a rule
		}
		var st unix.Stat_t
		if err := unix.Stat(d.Path, &st); err != nil {
			return fmt.Errorf("device %s of a container with a user namespace: %w: %w", d.Path, err, errdefs.ErrFailedPrecondition)
		}
		if int64(unix.Major(st.Rdev)) != d.Major || int64(unix.Minor(st.Rdev)) != d.Minor {
			return fmt.Errorf("device %s of a container with a user namespace is %d:%d, which is not the node's device of that path: %w",
				d.Path, d.Major, d.Minor, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// giveStdio gives the pipes of a further process to whom those of the first one
// belong, the root of the container's user namespace: the process cannot open again
// what belongs to nobody there.
func (c *container) giveStdio(files [3]*os.File) error {
	c.mu.Lock()
	owner := c.rec.Owner
	c.mu.Unlock()
	if owner == [2]int{} {
		return nil
	}
	for _, f := range files {
		if f == nil {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFIFO {
			continue
		}
		if err := unix.Fchown(int(f.Fd()), owner[0], owner[1]); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	return nil
}
