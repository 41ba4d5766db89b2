package server

import (
	"fmt"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
)

// warmUpCgroups has the library for cgroups v1 find out, before there are two of anything,
// what it remembers for the whole process and otherwise finds out, without a lock, when the
// first containers are started: the names of the files for I/O weights. On the kernels that
// Berth runs on they are the same in every cgroup.
func warmUpCgroups() error {
	if cgroups.IsCgroup2UnifiedMode() {
		return nil
	}
	config := &cgroups.Cgroup{Resources: &cgroups.Resources{SkipDevices: true}}
	manager, err := fs.NewManager(config, map[string]string{"blkio": "/sys/fs/cgroup/blkio"})
	if err != nil {
		return fmt.Errorf("look at cgroups: %w", err)
	}
	if err := manager.Set(config.Resources); err != nil {
		return fmt.Errorf("look at cgroups: %w", err)
	}
	return nil
}
