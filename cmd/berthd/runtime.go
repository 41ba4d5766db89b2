package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/config"
)

// monitorName is the monitor's program.
const monitorName = "berth-monitor"

// systemdCgroups decides who makes cgroups: true for systemd. It does so on cgroup v2 only;
// elsewhere it is ErrFailedPrecondition to ask for it.
//
// systemd does not delegate the devices controller of cgroup v1. It makes the cgroups of a
// scope and its slices there when the scope gets its rules, moves all processes of a slice to
// the slice's new cgroup, and none back into the scope's, which has the rules.
func systemdCgroups(setting string, running, unified bool) (bool, error) {
	switch {
	case setting == config.CgroupDriverCgroupfs:
		return false, nil
	case setting == config.CgroupDriverAuto:
		return running && unified, nil
	case !running:
		return false, fmt.Errorf("runtime.cgroupDriver: systemd does not run this machine: %w", errdefs.ErrFailedPrecondition)
	case !unified:
		return false, fmt.Errorf("runtime.cgroupDriver: systemd would move containers out of reach of their device rules, as this machine has cgroup v1; cgroupfs works on it: %w", errdefs.ErrFailedPrecondition)
	default:
		return true, nil
	}
}

func runsSystemd() bool { return isDirectory("/run/systemd/system") }

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func isUnified(mount string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(mount, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// monitorBinary finds the program: at the configured path, else beside this one,
// else in $PATH.
func monitorBinary(configured string) (string, error) {
	if configured != "" {
		path, err := exec.LookPath(configured)
		if err != nil {
			return "", fmt.Errorf("runtime.monitorBinary: %w", err)
		}
		return path, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", monitorName, err)
	}
	beside := filepath.Join(filepath.Dir(self), monitorName)
	if path, err := exec.LookPath(beside); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(monitorName)
	if err != nil {
		return "", fmt.Errorf("%s is neither %q nor in $PATH; runtime.monitorBinary can name it: %w", monitorName, beside, err)
	}
	return path, nil
}
