package stats

import (
	"path"
	"strings"
)

// CgroupPath is the path of a cgroup below the mount points, given a cgroupsPath
// of the runtime specification: a path, or for systemd "slice:prefix:name".
func CgroupPath(cgroupsPath string) string {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 {
		return path.Join("/", cgroupsPath)
	}
	return path.Join(SlicePath(parts[0]), parts[1]+"-"+parts[2]+".scope")
}

// SlicePath is where systemd has a slice: a-b.slice is within a.slice
// (systemd.slice(5)).
func SlicePath(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" {
		return "/"
	}
	full, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		prefix += part
		full = path.Join(full, prefix+".slice")
		prefix += "-"
	}
	return full
}
