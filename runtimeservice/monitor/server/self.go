package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
)

// cgroupRoot is where the hierarchies are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// EnterCgroup moves this process into a cgroup of each mounted hierarchy, made
// where it does not exist. So the monitor is not in that of a service manager,
// which would end or limit it together with the daemon.
func EnterCgroup(path string) error {
	if cgroups.IsCgroup2UnifiedMode() {
		return enter(filepath.Join(cgroupRoot, path))
	}
	mounts, err := cgroups.GetCgroupMounts(true)
	if err != nil {
		return fmt.Errorf("enter cgroup %s: %w", path, err)
	}
	for _, m := range mounts {
		dir := filepath.Join(m.Mountpoint, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
		if err := inheritCpuset(m.Mountpoint, dir); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
		if err := enter(dir); err != nil {
			return err
		}
	}
	if cgroups.IsCgroup2HybridMode() {
		return enter(filepath.Join(cgroupRoot, "unified", path))
	}
	return nil
}

func enter(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("enter cgroup: %w", err)
	}
	pid := strconv.Itoa(os.Getpid())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0); err != nil {
		return fmt.Errorf("enter cgroup: %w", err)
	}
	return nil
}

// inheritCpuset gives the v1 cpuset cgroups from the mount point down to dir
// the CPUs and memory nodes of their parents; without, no process can enter.
func inheritCpuset(mountpoint, dir string) error {
	rel, err := filepath.Rel(mountpoint, dir)
	if err != nil {
		return err
	}
	parent := mountpoint
	for _, name := range strings.Split(rel, string(filepath.Separator)) {
		child := filepath.Join(parent, name)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(filepath.Join(parent, file), filepath.Join(child, file)); err != nil {
				return err
			}
		}
		parent = child
	}
	return nil
}

func inherit(from, to string) error {
	have, err := os.ReadFile(to)
	if errors.Is(err, os.ErrNotExist) {
		return nil // not a cpuset hierarchy
	}
	if err != nil || len(bytes.TrimSpace(have)) > 0 {
		return err
	}
	value, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, bytes.TrimSpace(value), 0)
}
