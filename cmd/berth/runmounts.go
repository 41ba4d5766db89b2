package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// parseVolume reads SOURCE:TARGET[:OPTION[,OPTION...]]. The source has to exist:
// a folder made in its place would hide a mistyped path.
func parseVolume(arg string) (*runtimeapi.Mount, error) {
	parts := strings.Split(arg, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return nil, fmt.Errorf("volume %q is not SOURCE:TARGET[:OPTIONS]", arg)
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return nil, fmt.Errorf("volume %q: %w", arg, err)
	}
	if _, err := os.Stat(source); err != nil {
		return nil, fmt.Errorf("volume %q: %w", arg, err)
	}
	if !filepath.IsAbs(parts[1]) {
		return nil, fmt.Errorf("volume %q: the target %q is not an absolute path", arg, parts[1])
	}
	m := &runtimeapi.Mount{HostPath: source, ContainerPath: filepath.Clean(parts[1])}
	if len(parts) == 3 {
		for option := range strings.SplitSeq(parts[2], ",") {
			if err := setMountOption(m, option); err != nil {
				return nil, fmt.Errorf("volume %q: %w", arg, err)
			}
		}
	}
	return m, nil
}

func setMountOption(m *runtimeapi.Mount, option string) error {
	switch option {
	case "rw":
	case "ro":
		m.Readonly = true
	case "rro":
		m.Readonly, m.RecursiveReadOnly = true, true
	case "z", "Z":
		m.SelinuxRelabel = true
	case "private", "rprivate":
		m.Propagation = runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	case "slave", "rslave":
		m.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case "shared", "rshared":
		m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	default:
		return fmt.Errorf("unknown option %q: use ro, rw, rro, z, rprivate, rslave or rshared", option)
	}
	return nil
}

// parseDevice reads SOURCE[:TARGET[:PERMISSIONS]].
func parseDevice(arg string) (*runtimeapi.Device, error) {
	parts := strings.Split(arg, ":")
	if len(parts) > 3 || !filepath.IsAbs(parts[0]) {
		return nil, fmt.Errorf("device %q is not SOURCE[:TARGET[:PERMISSIONS]]", arg)
	}
	d := &runtimeapi.Device{HostPath: parts[0], ContainerPath: parts[0], Permissions: "rwm"}
	if len(parts) > 1 && parts[1] != "" {
		d.ContainerPath = parts[1]
	}
	if len(parts) > 2 {
		d.Permissions = parts[2]
	}
	if d.Permissions == "" || strings.Trim(d.Permissions, "rwm") != "" {
		return nil, fmt.Errorf("device %q: permissions %q are not of r, w and m", arg, d.Permissions)
	}
	return d, nil
}
