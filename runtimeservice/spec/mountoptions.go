package spec

import (
	"slices"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mountOptionNames are the options that a request may ask of a mount: the ones
// that the CRI text names, which all take rights away. Whether a mount can be
// written to and what propagates have fields of their own.
var mountOptionNames = []string{"noexec", "nodev", "nosuid"}

// checkMountOptions refuses options that would do anything else than restrict the
// mount.
func checkMountOptions(field string, options []string) error {
	for i, o := range options {
		at := field + "[" + strconv.Itoa(i) + "]"
		switch {
		case slices.Contains(mountOptionNames, o):
		case o == "ro" || o == "rw" || o == "rro":
			return invalid(at, "%q is said by readonly and recursive_read_only", o)
		case slices.Contains(propagationOptions, o):
			return invalid(at, "%q is said by propagation", o)
		default:
			return invalid(at, "%q is not one of noexec, nodev and nosuid", o)
		}
	}
	return nil
}

// propagationOptions are the propagations that OCI knows as mount options.
var propagationOptions = []string{"private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"}

// withMountOptions adds the options that the mount asks for and that are not there
// yet. As OCI has them they hold for the volume's own mount, not for others below
// it.
func withMountOptions(options []string, m *runtimeapi.Mount) []string {
	for _, o := range m.GetMountOptions() {
		if !slices.Contains(options, o) {
			options = append(options, o)
		}
	}
	return options
}
