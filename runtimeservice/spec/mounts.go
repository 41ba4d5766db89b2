package spec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/hostpath"
)

// mountTable is what a container's mounts come to.
type mountTable struct {
	mounts []specs.Mount
	// rootPropagation is the least that the root needs for the mounts'
	// propagation; "" leaves it to libcontainer.
	rootPropagation string
}

// hostMount is a bind mount of the request, checked and resolved.
type hostMount struct {
	mount specs.Mount
	// propagation of the root that this mount needs.
	propagation string
}

// buildMounts gives the container's mounts: those of every Linux container, the
// pod's files and the request's, parents before children. A mount of the request
// takes the place of a default one at its destination, and one over /dev, /sys
// or /proc also of those below.
func buildMounts(ctx context.Context, in *Input, m modes) (*mountTable, error) {
	asked := in.Container.GetMounts()
	for i, cm := range asked {
		if err := checkMount("config.mounts["+strconv.Itoa(i)+"]", cm); err != nil {
			return nil, err
		}
	}
	var resolved []hostMount
	if len(asked) > 0 {
		var err error
		if resolved, err = interruptible(ctx, "resolve the container's mounts", func() ([]hostMount, error) { return resolveMounts(ctx, in) }); err != nil {
			return nil, err
		}
	}

	t := &mountTable{}
	for _, dm := range forUserNamespace(systemMounts(in, m), m) {
		if !slices.ContainsFunc(resolved, func(h hostMount) bool { return under(dm.Destination, h.mount.Destination) }) {
			t.mounts = append(t.mounts, dm)
		}
	}
	layered := make([]specs.Mount, 0, len(resolved)+3)
	for _, pm := range podMounts(in, m) {
		if !slices.ContainsFunc(resolved, func(h hostMount) bool { return pm.Destination == h.mount.Destination }) {
			layered = append(layered, pm)
		}
	}
	for _, v := range in.Volumes {
		layered = append(layered, bind(v.Source, v.Destination, "rprivate", "rw"))
	}
	for _, h := range resolved {
		layered = append(layered, h.mount)
		if h.propagation == "rshared" || t.rootPropagation == "" {
			t.rootPropagation = h.propagation
		}
	}
	slices.SortStableFunc(layered, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	t.mounts = append(t.mounts, layered...)
	return t, nil
}

// ttyGroup is the group of terminals on every distribution.
const ttyGroup = 5

// systemMounts are the kernel's file systems of a container (runtime-spec,
// "Default Filesystems").
func systemMounts(in *Input, m modes) []specs.Mount {
	sysMode := "ro"
	if privileged(in.Container) {
		sysMode = "rw"
	}
	mounts := make([]specs.Mount, 0, 12)
	mounts = append(mounts,
		specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=" + strconv.Itoa(ttyGroup)}},
		specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sysMode}},
	)
	if in.Host.CgroupV2 && !cgroupNamespace(in) {
		// A fresh cgroup2 mount outside of a cgroup namespace is the node's own
		// superblock: its options (nsdelegate, memory_recursiveprot) would change
		// for the whole node.
		return append(mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "bind", Source: "/sys/fs/cgroup",
			Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", sysMode}})
	}
	cgroupMode := sysMode
	if in.Defaults.CgroupWritable && cgroupNamespace(in) {
		cgroupMode = "rw"
	}
	return append(mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", "relatime", cgroupMode}})
}

// podMounts are what the pod's containers share: memory and files.
func podMounts(in *Input, m modes) []specs.Mount {
	mounts := make([]specs.Mount, 0, 3)
	shm := in.PodFiles.Shm
	if m.ipc == runtimeapi.NamespaceMode_NODE {
		shm = "/dev/shm"
	}
	if shm == "" || m.ipc == runtimeapi.NamespaceMode_CONTAINER {
		mounts = append(mounts, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}})
	} else {
		mounts = append(mounts, bind(shm, "/dev/shm", "rprivate", "nosuid", "noexec", "nodev", "rw"))
	}
	mode := "rw"
	if readonlyRootfs(in) {
		mode = "ro"
	}
	if in.PodFiles.ResolvConf != "" {
		mounts = append(mounts, bind(in.PodFiles.ResolvConf, "/etc/resolv.conf", "rprivate", "nosuid", "noexec", "nodev", mode))
	}
	if in.PodFiles.Hostname != "" {
		mounts = append(mounts, bind(in.PodFiles.Hostname, "/etc/hostname", "rprivate", "nosuid", "noexec", "nodev", mode))
	}
	return mounts
}

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Source: source, Destination: destination, Type: "bind", Options: append([]string{"rbind"}, options...)}
}

// checkMount checks what a mount of the request says, without the file system.
// selinux_relabel is not looked at here: the files are labelled when it is known where
// they are.
func checkMount(field string, m *runtimeapi.Mount) error {
	if err := checkMountOptions(field+".mount_options", m.GetMountOptions()); err != nil {
		return err
	}
	switch {
	case m.GetImage() == nil && m.GetImageSubPath() != "":
		return invalid(field+".image_sub_path", "is set without an image")
	case (len(m.GetUidMappings()) > 0) != (len(m.GetGidMappings()) > 0):
		return invalid(field+".uidMappings", "users and groups are mapped together, or not at all")
	}
	if err := checkDestination(field+".container_path", m.GetContainerPath()); err != nil {
		return err
	}
	if m.GetImage() != nil {
		if err := checkImageMount(field, m); err != nil {
			return err
		}
	} else if src := m.GetHostPath(); !path.IsAbs(src) || hasNUL(src) {
		return invalid(field+".host_path", "%q is not an absolute path", src)
	}
	if _, known := runtimeapi.MountPropagation_name[int32(m.GetPropagation())]; !known {
		return invalid(field+".propagation", "unknown propagation %d", m.GetPropagation())
	}
	if m.GetRecursiveReadOnly() {
		if !m.GetReadonly() {
			return invalid(field+".recursive_read_only", "needs readonly")
		}
		if m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
			return invalid(field+".recursive_read_only", "needs private propagation, not %s", m.GetPropagation())
		}
	}
	return nil
}

// emulatedProcFiles are the files of /proc that lxcfs provides per container;
// nothing else may be mounted over a file of /proc, which the kernel and the
// runtime trust.
var emulatedProcFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/slabinfo",
	"/proc/stat", "/proc/swaps", "/proc/uptime",
}

func checkDestination(field, dst string) error {
	if !path.IsAbs(dst) || hasNUL(dst) {
		return invalid(field, "%q is not an absolute path", dst)
	}
	clean := path.Clean(dst)
	if clean == "/" {
		return invalid(field, "a mount over the container's root")
	}
	if under(clean, "/proc") && clean != "/proc" && !slices.Contains(emulatedProcFiles, clean) {
		return invalid(field, "%q lies in /proc", dst)
	}
	return nil
}

// resolveMounts looks at the sources of checked mounts.
func resolveMounts(ctx context.Context, in *Input) ([]hostMount, error) {
	asked := in.Container.GetMounts()
	resolved := make([]hostMount, 0, len(asked))
	for i, m := range asked {
		field := "config.mounts[" + strconv.Itoa(i) + "]"
		var h hostMount
		var err error
		if m.GetImage() == nil {
			h, err = resolveMount(ctx, in.Host.paths(), field, m)
		} else if image, ok := in.ImageMounts[i]; ok {
			h, err = resolveImageMount(field, m, image)
		} else {
			err = fmt.Errorf("build specification: the image of %s is not mounted", field)
		}
		if err != nil {
			return nil, err
		}
		resolved = append(resolved, h)
	}
	return resolved, nil
}

func resolveMount(ctx context.Context, paths *hostpath.Resolver, field string, m *runtimeapi.Mount) (hostMount, error) {
	source, err := resolveHostPath(ctx, paths, field+".host_path", m.GetHostPath())
	if err != nil {
		return hostMount{}, err
	}
	dst := path.Clean(m.GetContainerPath())
	if dst == "/proc" {
		if err := checkProcSource(field+".host_path", source); err != nil {
			return hostMount{}, err
		}
	}
	h := hostMount{}
	propagation := "rprivate"
	switch m.GetPropagation() {
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		propagation, h.propagation = "rslave", "rslave"
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		propagation, h.propagation = "rshared", "rshared"
	}
	if h.propagation != "" {
		if err := checkPropagation(field+".propagation", source, m.GetPropagation()); err != nil {
			return hostMount{}, err
		}
	}
	mode := "rw"
	switch {
	case m.GetRecursiveReadOnly():
		mode = "rro"
	case m.GetReadonly():
		mode = "ro"
	}
	h.mount = bind(source.Name, dst, propagation, mode)
	h.mount.Options = withMountOptions(h.mount.Options, m)
	mountMappings(m, &h.mount)
	return h, nil
}

// resolveHostPath follows the links of a path of the node.
func resolveHostPath(ctx context.Context, paths *hostpath.Resolver, field, name string) (hostpath.Path, error) {
	source, err := paths.Resolve(ctx, name)
	return source, hostPathError(ctx, field, name, err)
}

// hostPathError gives an error of a path of the node its kind.
func hostPathError(ctx context.Context, field, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return missing(field, "%q does not exist on the node", name)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return invalid(field, "%v", err)
	case errors.Is(err, hostpath.ErrNoAnswer):
		return fmt.Errorf("%s: %w: %w", field, err, errdefs.ErrUnavailable)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", field, err)
	}
	// Such as ENOTCONN and EIO, of a file system whose server has died.
	return precondition(field, "%v", err)
}

func checkProcSource(field string, source hostpath.Path) error {
	m, found, err := hostpath.FindMount(source.Mount)
	if err != nil {
		return fmt.Errorf("%s: %q: %w", field, source.Name, err)
	}
	if !found || m.Type != "proc" {
		return invalid(field, "%q over /proc is not a proc file system", source.Name)
	}
	return nil
}

// interruptible waits for f no longer than ctx allows. A look at a dead network
// or FUSE mount can block for good: then f is left behind, its result unused.
func interruptible[T any](ctx context.Context, step string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, fmt.Errorf("%s: %w", step, ctx.Err())
	}
}
