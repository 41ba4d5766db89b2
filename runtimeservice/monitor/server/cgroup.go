package server

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	// Lets the cgroup managers set device rules.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cgroupManager makes the library's manager of a cgroup that is limited in nothing. It sets
// no rules for devices.
func cgroupManager(id, path string, systemd bool) (cgroups.Manager, error) {
	config, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{
		CgroupName:       id,
		UseSystemdCgroup: systemd,
		Spec:             &specs.Spec{Linux: &specs.Linux{CgroupsPath: path}},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("convert cgroup path: %w", err)
	}
	config.Resources.SkipDevices = true
	m, err := manager.New(config)
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	return m, nil
}

// processesOf returns the processes in a container's cgroup and below, asked
// of one hierarchy, as they are in all of them.
func processesOf(paths map[string]string) ([]int, error) {
	for _, controller := range []string{"", "freezer", "pids", "memory", "devices", "name=systemd"} {
		dir := paths[controller]
		if dir == "" {
			continue
		}
		pids, err := cgroups.GetAllPids(dir)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list processes of cgroup %s: %w", dir, err)
		}
		return pids, nil
	}
	return nil, nil
}

// signalCgroup sends a signal to every process of a cgroup. SIGKILL misses
// none: the kernel does it, or the processes are frozen meanwhile.
func signalCgroup(paths map[string]string, sig syscall.Signal) error {
	if sig != syscall.SIGKILL {
		return signalEach(paths, sig)
	}
	if dir := paths[""]; dir != "" {
		err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		if err == nil {
			return nil
		}
	}
	if dir := paths["freezer"]; dir != "" {
		return killFrozen(dir)
	}
	return signalEach(paths, sig)
}

// killFrozen kills what is in a cgroup of the v1 freezer. A frozen process
// takes the signal when it is thawed.
func killFrozen(dir string) error {
	state := filepath.Join(dir, "freezer.state")
	if err := os.WriteFile(state, []byte("FROZEN"), 0); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("freeze cgroup: %w", err)
	}
	defer func() { _ = os.WriteFile(state, []byte("THAWED"), 0) }()
	return signalEach(map[string]string{"freezer": dir}, syscall.SIGKILL)
}

func signalEach(paths map[string]string, sig syscall.Signal) error {
	pids, err := processesOf(paths)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

// killWait bounds how long emptying a cgroup may take; a process in
// uninterruptible sleep can hold it up for ever.
const killWait = 10 * time.Second

// emptyCgroup kills until a cgroup has no process left.
func emptyCgroup(paths map[string]string) error {
	deadline := time.Now().Add(killWait)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		pids, err := processesOf(paths)
		if err != nil || len(pids) == 0 {
			return err
		}
		if err := signalCgroup(paths, syscall.SIGKILL); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		time.Sleep(pause)
	}
}

// removeCgroup removes the directories of an empty cgroup; it is no error if
// they are gone.
func removeCgroup(paths map[string]string) error {
	if err := cgroups.RemovePaths(maps.Clone(paths)); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}
