package spec

import (
	"path"
	"strings"
)

// CgroupsPath gives a cgroupsPath of the runtime specification for the child id
// of a pod's cgroup parent: "<parent>/<id>" for the cgroupfs driver,
// "<slice>:berth:<id>" for systemd, which names the unit berth-<id>.scope.
//
// The parent is in cgroupfs form for both, as the CRI text says; for systemd its
// last element has to be a slice. An empty parent stands for fallback.
func CgroupsPath(systemd bool, parent, fallback, id string) (string, error) {
	const field = "sandbox_config.linux.cgroup_parent"
	if parent == "" {
		parent = fallback
	}
	if parent == "" {
		return "", invalid(field, "no parent and no default")
	}
	if id == "" || strings.ContainsAny(id, "/:\x00") || id == "." || id == ".." {
		return "", invalid("container ID", "%q is not the name of a cgroup", id)
	}
	if hasControl(parent) {
		return "", invalid(field, "%q holds a control character", parent)
	}
	for part := range strings.SplitSeq(parent, "/") {
		if part == ".." {
			return "", invalid(field, "%q leaves its directory", parent)
		}
	}
	if !systemd {
		return path.Join("/", parent, id), nil
	}
	slice := path.Base(parent)
	if !strings.HasSuffix(slice, ".slice") || strings.Contains(slice, ":") {
		return "", invalid(field, "%q does not end in a systemd slice", parent)
	}
	return slice + ":berth:" + id, nil
}

// CheckCgroupsPath refuses a cgroupsPath that CgroupsPath would not give: the cgroup is
// the container's own and is removed with all that is in it.
func CheckCgroupsPath(systemd bool, cgroup string) error {
	const field = "cgroups path"
	if hasControl(cgroup) {
		return invalid(field, "%q holds a control character", cgroup)
	}
	if systemd {
		slice, unit, _ := strings.Cut(cgroup, ":")
		prefix, name, ok := strings.Cut(unit, ":")
		if !ok || !strings.HasSuffix(slice, ".slice") || prefix == "" || name == "" || strings.ContainsAny(cgroup, "/") {
			return invalid(field, "%q is not slice:prefix:name", cgroup)
		}
		return nil
	}
	if !path.IsAbs(cgroup) || path.Clean(cgroup) != cgroup || path.Dir(cgroup) == "/" {
		return invalid(field, "%q is not a path of two elements or more below the root", cgroup)
	}
	return nil
}
