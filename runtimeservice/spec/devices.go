package spec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/hostpath"
)

// deviceTable is the container's devices and the rules of its device cgroup.
// The rules for what every container has (null, zero, tty, …) are added by
// libcontainer, after these.
type deviceTable struct {
	nodes []specs.LinuxDevice
	rules []specs.LinuxDeviceCgroup
	// mounts are in the place of nodes of other paths than on the node, for a pod
	// with a user namespace: there nobody may make a node, and a runtime mounts
	// what the node has at the path of the container's.
	mounts []specs.Mount
}

// buildDevices gives the container's devices, without those of CDI, which are
// edited into the specification when it is built. All access is denied first; each
// device of the request is then allowed as it says. A privileged container has
// the node's devices and no restriction.
func buildDevices(ctx context.Context, in *Input) (*deviceTable, error) {
	asked := in.Container.GetDevices()
	for i, d := range asked {
		if err := checkDevice("config.devices["+strconv.Itoa(i)+"]", d); err != nil {
			return nil, err
		}
	}
	t := &deviceTable{}
	if len(asked) > 0 {
		var err error
		if t, err = interruptible(ctx, "look at the container's devices", func() (*deviceTable, error) { return hostDevices(ctx, in) }); err != nil {
			return nil, err
		}
	}
	if !privileged(in.Container) || in.Defaults.PrivilegedWithoutHostDevices {
		t.rules = append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, t.rules...)
		return t, nil
	}
	t.rules = []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}
	all, err := interruptible(ctx, "list the node's devices", func() ([]specs.LinuxDevice, error) { return devicesBelow("/dev", "/dev", true) })
	if err != nil {
		return nil, err
	}
	named := make(map[string]bool, len(t.nodes))
	for _, d := range t.nodes {
		named[d.Path] = true
	}
	for _, d := range all {
		if !named[d.Path] {
			t.nodes = append(t.nodes, d)
		}
	}
	return t, nil
}

func checkDevice(field string, d *runtimeapi.Device) error {
	if p := d.GetHostPath(); !path.IsAbs(p) || hasNUL(p) {
		return invalid(field+".host_path", "%q is not an absolute path", p)
	}
	if p := d.GetContainerPath(); p != "" {
		clean := path.Clean(p)
		if !path.IsAbs(p) || hasNUL(p) || clean == "/" || under(clean, "/proc") || under(clean, "/sys") {
			return invalid(field+".container_path", "%q is not a place for a device", p)
		}
	}
	perms := d.GetPermissions()
	if perms == "" || strings.Trim(perms, "rwm") != "" {
		return invalid(field+".permissions", "%q is not made of r, w and m", perms)
	}
	return nil
}

// hostDevices looks at the devices of a request. One that is a directory stands
// for all devices in it.
func hostDevices(ctx context.Context, in *Input) (*deviceTable, error) {
	userns := podUserNamespace(in) != nil
	t := &deviceTable{}
	for i, d := range in.Container.GetDevices() {
		field := "config.devices[" + strconv.Itoa(i) + "].host_path"
		source, err := deviceSource(ctx, in.Host.paths(), field, d.GetHostPath())
		if err != nil {
			return nil, err
		}
		target := d.GetContainerPath()
		if target == "" {
			target = d.GetHostPath()
		}
		nodes, err := devicesAt(field, source, path.Clean(target))
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			if at := path.Join(source, strings.TrimPrefix(n.Path, path.Clean(target))); userns && at != n.Path {
				t.mounts = append(t.mounts, specs.Mount{Source: at, Destination: n.Path, Type: "bind", Options: []string{"bind", "rprivate", "nosuid", "noexec"}})
			} else {
				t.nodes = append(t.nodes, n)
			}
			t.rules = append(t.rules, specs.LinuxDeviceCgroup{Allow: true, Type: n.Type, Major: &n.Major, Minor: &n.Minor, Access: d.GetPermissions()})
		}
	}
	return t, nil
}

// deviceSource resolves the path of a device. The file systems that devices are on are the
// kernel's own; one that might not answer is not looked at.
func deviceSource(ctx context.Context, paths *hostpath.Resolver, field, name string) (string, error) {
	source, err := resolveHostPath(ctx, paths, field, name)
	if err != nil {
		return "", err
	}
	m, found, err := hostpath.FindMount(source.Mount)
	if err != nil {
		return "", fmt.Errorf("%s: %w", field, err)
	}
	if found && m.MayHang() {
		return "", precondition(field, "%q is on a file system of type %s, which is not for devices", name, m.Type)
	}
	return source.Name, nil
}

func devicesAt(field, source, target string) ([]specs.LinuxDevice, error) {
	st, err := os.Lstat(source)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if st.IsDir() {
		nodes, err := devicesBelow(source, target, false)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		if len(nodes) == 0 {
			return nil, invalid(field, "no devices in %q", source)
		}
		return nodes, nil
	}
	dev, ok, err := deviceAt(source, target)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if !ok {
		return nil, invalid(field, "%q is not a device", source)
	}
	return []specs.LinuxDevice{dev}, nil
}

// deviceAt gives the device at source as it is to be at target; false if there
// is none.
func deviceAt(source, target string) (specs.LinuxDevice, bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(source, &st); err != nil {
		return specs.LinuxDevice{}, false, &fs.PathError{Op: "lstat", Path: source, Err: err}
	}
	dev := specs.LinuxDevice{Path: target, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), UID: &st.Uid, GID: &st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		dev.Type = "c"
	case unix.S_IFBLK:
		dev.Type = "b"
	default:
		return dev, false, nil
	}
	mode := os.FileMode(st.Mode & 0o7777)
	dev.FileMode = &mode
	return dev, true, nil
}

// devicesBelow lists the devices in a directory and those below it. The node's
// /dev holds places that a container has of its own: they are left out when
// wholeDev is set.
func devicesBelow(dir, target string, wholeDev bool) ([]specs.LinuxDevice, error) {
	var nodes []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // went away meanwhile
		}
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, dir), "/")
		if wholeDev && containersOwn(rel) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type()&fs.ModeDevice == 0 {
			return nil
		}
		dev, ok, err := deviceAt(p, path.Join(target, rel))
		if err == nil && ok {
			nodes = append(nodes, dev)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return nodes, err
}

// containersOwn tells the entries of /dev that every container has for itself.
func containersOwn(rel string) bool {
	switch rel {
	case "pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts", ".udev":
		return true
	}
	return false
}
