package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/record"
)

// WithRoot calls f with the directory that is a container's root. Of one that runs, it has
// all its mounts, as its first process sees them; of another, the root file system alone, and
// the container is neither started nor removed meanwhile. Only look-ups that cannot lead out
// (RESOLVE_IN_ROOT) are safe in there. A container whose files are not this node's, as in a
// virtual machine, is ErrFailedPrecondition.
func (s *Service) WithRoot(ctx context.Context, id string, f func(root *os.File) error) error {
	c, err := s.containers.find(id)
	if err != nil {
		return err
	}
	s.background.begin()
	defer s.background.end()
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	var root *os.File
	if c.state() == record.Running {
		root, err = c.openRoot()
		c.op.release()
	} else {
		defer c.op.release()
		root, err = s.openStoppedRoot(ctx, c)
	}
	if err != nil {
		root.Close() // nil, unless unmounting has failed
		return fmt.Errorf("open root of container %s: %w", c.id, err)
	}
	defer root.Close()
	return f(root)
}

const openRootFlags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC

// openRoot opens the root of a container's first process.
func (c *container) openRoot() (*os.File, error) {
	proc := fmt.Sprintf("/proc/%d", c.rec.Load().Pid)
	fd, err := unix.Open(proc+"/root", openRootFlags, 0)
	if err != nil {
		if err := c.requireRunning(); err != nil {
			return nil, err
		}
		return nil, &os.PathError{Op: "open", Path: proc + "/root", Err: err}
	}
	root := os.NewFile(uintptr(fd), "/")
	if err := c.requireRoot(root, proc); err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// requireRoot makes sure that it is the root of the container: the process can have ended, with
// another under its number, and the first process of a virtual machine is on the node.
func (c *container) requireRoot(root *os.File, proc string) error {
	cgroups, err := os.ReadFile(proc + "/cgroup")
	if err != nil || !strings.Contains(string(cgroups), c.id) {
		return errors.Join(c.requireRunning(), fmt.Errorf("its first process is not in its cgroup: %w", errdefs.ErrUnavailable))
	}
	var its, nodes unix.Stat_t
	if err := errors.Join(unix.Fstat(int(root.Fd()), &its), unix.Stat("/", &nodes)); err != nil {
		return err
	}
	if its.Dev == nodes.Dev && its.Ino == nodes.Ino {
		return fmt.Errorf("its root is the node's, so its files are elsewhere: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// openStoppedRoot opens the root file system of a container that does not run. Where it is
// mounted for that it is only mounted for the descriptor, once this returns.
func (s *Service) openStoppedRoot(ctx context.Context, c *container) (_ *os.File, err error) {
	dir := s.rootfsDir(c.id)
	if c.state() != record.Created {
		userns := ""
		if mapping := userMapping(c.sandbox.config); mapping != nil {
			ns, err := s.opts.Namespaces.OpenUser(*mapping)
			if err != nil {
				return nil, err
			}
			defer ns.Close()
			userns = fmt.Sprintf("/proc/self/fd/%d", ns.Fd())
		}
		rec := c.rec.Load()
		if err := s.opts.RootFilesystems.MountRootfs(ctx, c.id, rec.ImageID, dir, rec.FileLabel, userns); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, s.opts.RootFilesystems.UnmountRootfs(context.WithoutCancel(ctx), c.id)) }()
	}
	fd, err := unix.Open(dir, openRootFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), "/"), nil
}
