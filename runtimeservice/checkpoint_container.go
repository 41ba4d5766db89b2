package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/checkpoint"
	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// CheckpointContainer writes a checkpoint of a running container as an archive at
// location, and leaves the container running. timeout is how long that may take, 0 for two
// minutes. Nothing is overwritten: if something is at location, that is ErrAlreadyExists,
// and the archive appears there when it is whole. After an error there is none, and on any
// outcome the container goes on. What CRIU cannot do is ErrFailedPrecondition.
func (s *checkpoints) CheckpointContainer(ctx context.Context, id, location string, timeout time.Duration) error {
	c, err := s.containers.find(id)
	if err != nil {
		return err
	}
	aboutContainer(ctx, c)
	if timeout <= 0 {
		timeout = checkpointTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.checkpointContainer(ctx, c, location); err != nil {
		return fmt.Errorf("checkpoint container %s: %w", c.id, err)
	}
	return nil
}

// checkpointContainer is not detached: when the caller is gone nobody wants the archive.
func (s *checkpoints) checkpointContainer(ctx context.Context, c *container, location string) (err error) {
	s.background.begin()
	defer s.background.end()
	if err := c.requireCheckpointable(); err != nil {
		return err
	}
	if err := freeLocation(location); err != nil {
		return err
	}
	job, err := s.beginCheckpoint(checkpointJob{Partial: partialName(location)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.endCheckpoint(job)) }()
	if err := s.dumpAll(ctx, []dumped{{c, job.dir}}, monitor.CRIUOptions{}); err != nil {
		return err
	}
	return operation.Do(ctx, "write archive", func(ctx context.Context) error {
		return packTo(ctx, job.dir, job.Partial, location)
	})
}

// freeLocation refuses a path that is not clean, or not free.
func freeLocation(location string) error {
	if err := requireCleanPath("location", location); err != nil {
		return err
	}
	if _, err := os.Lstat(location); err == nil {
		return fmt.Errorf("location: %q exists: %w", location, errdefs.ErrAlreadyExists)
	}
	info, err := os.Stat(filepath.Dir(location))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("location: the directory of %q does not exist: %w", location, errdefs.ErrFailedPrecondition)
	case err != nil:
		return fmt.Errorf("location: %w", err)
	case !info.IsDir():
		return invalid("location", "%q is not in a directory", location)
	}
	return nil
}

// partialName is where an archive grows, beside its place. It keeps clear of a name that is
// as long as names may be.
func partialName(location string) string {
	return filepath.Join(filepath.Dir(location), ".berth-checkpoint-"+newID()+".partial")
}

// packTo writes the archive of a directory; it is at location when it is whole and on the
// disk, and not at all if something else is there by now.
func packTo(ctx context.Context, dir, partial, location string) error {
	f, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	defer f.Close()
	if err := checkpoint.Pack(ctx, dir, f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	err = unix.Renameat2(unix.AT_FDCWD, partial, unix.AT_FDCWD, location, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system without it. A link is not made over what is there either.
		err = os.Link(partial, location)
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("location: %q exists by now: %w", location, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("give the archive its name: %w", err)
	}
	return nil
}
