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
