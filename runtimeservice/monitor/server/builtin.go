package server

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// builtin is libcontainer in this process. What is asked of a container that exists goes
// through container.libcontainer.
type builtin struct {
	c       *container
	config  *configs.Config
	process *libcontainer.Process
	lib     *libcontainer.Container
	// spec is that of a container being started; restore is what it goes on from, if it
	// is restored.
	spec    *specs.Spec
	restore *protocol.Restore
	// pid is the restored one.
	pid int
}

var _ backend = (*builtin)(nil)

func (c *container) newBuiltin(req *protocol.Start) (*builtin, error) {
	config, err := c.server.convertSpec(req)
	if err != nil {
		return nil, err
	}
	process, err := convertProcess(req.Spec.Process)
	if err != nil {
		return nil, err
	}
	process.Init = true
	return &builtin{c: c, config: config, process: process, spec: req.Spec, restore: req.Restore}, nil
}

func (b *builtin) owner() (uid, gid int, err error) {
	if uid, err = b.config.HostRootUID(); err != nil {
		return 0, 0, err
	}
	gid, err = b.config.HostRootGID()
	return uid, gid, err
}

func (b *builtin) prepare() (map[string]string, error) {
	if err := b.c.server.clearLeftovers(b.c.id); err != nil {
		return nil, err
	}
	lib, err := libcontainer.Create(b.c.server.stateDir(), b.c.id, b.config)
	if err != nil {
		return nil, err
	}
	b.lib = lib
	state, err := lib.State()
	if err != nil {
		return nil, err
	}
	return maps.Clone(state.CgroupPaths), nil
}

func (b *builtin) create(s *stdio) (int, waiter, error) {
	if b.restore != nil {
		return b.restoreByCRIU(s)
	}
	s.give(b.process)
	if err := b.lib.Start(b.process); err != nil {
		return 0, nil, commandError(err, b.process)
	}
	pid, err := b.process.Pid()
	return pid, b.process, err
}

func (b *builtin) release(pidfd int) error {
	var err error
	if b.restore != nil {
		err = b.c.releaseRestored(b.pid, b.spec)
	} else {
		err = releaseInit(filepath.Join(b.c.server.stateDir(), b.c.id), pidfd)
	}
	if err != nil {
		return err
	}
	b.c.mu.Lock()
	b.c.lib = b.lib
	b.c.mu.Unlock()
	return nil
}

func (b *builtin) exec(e *execProcess, spec *specs.Process, s *stdio) (int, waiter, error) {
	process, err := convertProcess(spec)
	if err != nil {
		return 0, nil, err
	}
	lib, err := b.c.libcontainer()
	if err != nil {
		return 0, nil, err
	}
	for controller, dir := range e.cgroup {
		process.SubCgroupPaths = map[string]string{controller: filepath.Base(dir)}
	}
	s.give(process)
	if err := lib.Start(process); err != nil {
		return 0, nil, commandError(err, process)
	}
	pid, err := process.Pid()
	return pid, process, err
}

func (b *builtin) signal(sig syscall.Signal) error { return b.c.signalPid(sig) }

func (b *builtin) update(changed *specs.LinuxResources) error {
	lib, err := b.c.libcontainer()
	if err != nil {
		return err
	}
	b.c.ops.Lock()
	defer b.c.ops.Unlock()
	config := lib.Config()
	cgroup := *config.Cgroups
	resources := *config.Cgroups.Resources
	applyResources(&resources, changed)
	cgroup.Resources = &resources
	config.Cgroups = &cgroup
	// The devices have not changed, and setting them anew would shut running
	// processes out for an instant.
	resources.SkipDevices = true
	err = lib.Set(config)
	// libcontainer refuses to start processes with it.
	resources.SkipDevices = false
	if errors.Is(err, libcontainer.ErrNotRunning) {
		return fmt.Errorf("container has ended: %w", errdefs.ErrNotFound)
	}
	return err
}

// destroy lets libcontainer do its part: systemd's unit, resctrl, hooks.
func (b *builtin) destroy() error {
	if b.lib != nil {
		return b.lib.Destroy()
	}
	lib, err := b.c.libcontainer()
	if errors.Is(err, libcontainer.ErrNotExist) || errors.Is(err, errdefs.ErrInvalidArgument) {
		return nil
	}
	if err != nil {
		return err
	}
	return lib.Destroy()
}
