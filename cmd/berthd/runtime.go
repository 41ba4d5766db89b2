package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/config"
)

// monitorName is the monitor's program.
const monitorName = "berth-monitor"

// systemdCgroups decides who makes cgroups: true for systemd. Asked to find out,
// it takes systemd only where that has the unified hierarchy to itself: there
// two writers would undo each other's work. On cgroup v1 the kubelet's usual
// driver is cgroupfs, as is everything's that runs without systemd.
func systemdCgroups(setting string) (bool, error) {
	switch setting {
	case config.CgroupDriverCgroupfs:
		return false, nil
	case config.CgroupDriverSystemd:
		if !isDirectory("/run/systemd/system") {
			return false, fmt.Errorf("runtime.cgroupDriver: %s does not run this machine", setting)
		}
		return true, nil
	default:
		return isDirectory("/run/systemd/system") && isUnified("/sys/fs/cgroup"), nil
	}
}

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
