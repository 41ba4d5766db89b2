package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/checkpoint"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/undo"
)

// source is the checkpoint that a container goes on from: a copy of ours. A nil one is
// that of a container which begins anew.
type source struct {
	id, dir string
	was     *checkpoint.Container
	// imageID is the image to be used where the request names only the checkpoint.
	imageID string
	// exact says that the request has to describe the process of the checkpoint.
	exact   bool
	options map[string]string
}

// newSource has fill write a copy of a checkpoint into a new directory and reads it.
func (s *checkpoints) newSource(fill func(id, dir string) error) (_ *source, err error) {
	from := &source{id: newID()}
	from.dir = s.checkpointDir(from.id)
	defer func() {
		if err != nil {
			err = errors.Join(err, removeDump(from.dir))
		}
	}()
	if err := os.Mkdir(from.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of checkpoint: %w", err)
	}
	if err := fill(from.id, from.dir); err != nil {
		return nil, err
	}
	from.was, err = checkpoint.Read(from.dir)
	return from, err
}

// dropSource removes a copy that no container has taken.
func (s *checkpoints) dropSource(from *source) {
	if from == nil {
		return
	}
	if err := removeDump(s.checkpointDir(from.id)); err != nil {
		s.leave(leftover{id: from.id, purge: s.removeCheckpoint})
	}
}

// checkpointNamed is the checkpoint that the image of a request names, by the path of an
// archive or as an image that was made of one; nil for any other image.
func (s *Service) checkpointNamed(ctx context.Context, sb *sandbox, config *runtimeapi.ContainerConfig) (*source, error) {
	name := config.GetImage().GetImage()
	archive := filepath.IsAbs(name)
	if !archive {
		if s.opts.WritableLayers == nil {
			return nil, nil
		}
		is, err := s.opts.WritableLayers.CheckpointOf(ctx, name)
		if err != nil || !is {
			return nil, nil // whether the image is there is found out later
		}
	}
	ctx, end := operation.Stage(ctx, "read checkpoint")
	from, err := s.newSource(func(id, dir string) error {
		if archive {
			return unpackFile(ctx, name, dir)
		}
		return s.copyFromImage(ctx, sb, config.GetImage(), id, dir)
	})
	end(err)
	if err == nil {
		from.imageID, err = from.was.ImageID()
	}
	if err != nil {
		s.dropSource(from)
		return nil, fmt.Errorf("config.image.image: read checkpoint %q: %w", name, err)
	}
	return from, nil
}

// unpackFile unpacks an archive: a regular file, whatever the path leads to.
func unpackFile(ctx context.Context, path, dir string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is not a regular file: %w", errdefs.ErrInvalidArgument)
	}
	return checkpoint.Unpack(ctx, f, info.Size(), dir)
}

// copyFromImage copies what an image has; the pod has to be allowed to use that.
func (s *Service) copyFromImage(ctx context.Context, sb *sandbox, image *runtimeapi.ImageSpec, id, dir string) (err error) {
	defer func() { err = errors.Join(err, s.opts.RootFilesystems.RemoveRootfs(context.WithoutCancel(ctx), id)) }()
	mounted, err := s.mountImage(ctx, sb, &record.Container{ID: id}, image)
	if err != nil {
		return err
	}
	return checkpoint.Copy(ctx, mounted.Root, dir)
}

// image is what to look for in place of the name in the request.
func (from *source) image(asked string) string {
	if from == nil || from.imageID == "" {
		return asked
	}
	return from.imageID
}

// fill writes to the record of the container that it goes on from a checkpoint.
func (from *source) fill(rec *record.Container) {
	if from != nil {
		rec.Restore, rec.RestoreOptions = true, from.options
	}
}

// mountFrom makes the copy the container's, and mounts its root file system with what the
// checkpoint has of it.
func (s *checkpoints) mountFrom(ctx context.Context, sb *sandbox, rec *record.Container, from *source, dir string, u *undo.Stack) error {
	if sb.userNamespace() != "" {
		return fmt.Errorf("the pod has a user namespace, in which CRIU cannot restore: %w", errdefs.ErrFailedPrecondition)
	}
	if sb.rec.Load().PodInit {
		return fmt.Errorf("the containers of the pod share a PID namespace, in which CRIU cannot restore one: %w", errdefs.ErrFailedPrecondition)
	}
	if from.exact && from.was.Config.RootfsImage != rec.ImageID {
		return fmt.Errorf("image %s is not the one of the checkpoint, %q: %w", rec.ImageID, from.was.Config.RootfsImage, errdefs.ErrFailedPrecondition)
	}
	u.Add("remove checkpoint", undoTimeout, func(ctx context.Context) error { return s.removeCheckpoint(ctx, rec.ID) })
	own := s.checkpointDir(rec.ID)
	if err := os.Rename(from.dir, own); err != nil {
		return fmt.Errorf("take checkpoint: %w", err)
	}
	from.dir = own
	changes, err := os.Open(filepath.Join(own, checkpoint.RootfsFile))
	if errors.Is(err, os.ErrNotExist) {
		return s.rootfs.MountRootfs(ctx, rec.ID, rec.ImageID, dir, rec.FileLabel, "")
	}
	if err != nil {
		return fmt.Errorf("read changes of root file system: %w", err)
	}
	defer changes.Close()
	if err := s.layers.MountRootfsFrom(ctx, rec.ID, rec.ImageID, dir, rec.FileLabel, changes); err != nil {
		return err
	}
	// It is in the container's root file system now.
	return os.Remove(changes.Name())
}

// check compares what the request comes to with what the checkpoint was of. Nothing of the
// checkpoint is taken over, so what differs and cannot be changed any more is refused.
func (from *source) check(now *specs.Spec) error {
	if from == nil {
		return nil
	}
	was := &from.was.Spec
	if err := sameMounts(was.Mounts, now.Mounts); err != nil {
		return err
	}
	if was.Process.Terminal != now.Process.Terminal {
		return mismatch("the terminal", was.Process.Terminal, now.Process.Terminal)
	}
	if a, b := namespaceTypes(was), namespaceTypes(now); !slices.Equal(a, b) {
		return mismatch("the namespaces", a, b)
	}
	if from.exact {
		return sameProcess(was.Process, now.Process)
	}
	return nil
}

func mismatch(what string, was, now any) error {
	return fmt.Errorf("%s of the request and of the checkpoint differ: %.500q there, %.500q here: %w", what, fmt.Sprint(was), fmt.Sprint(now), errdefs.ErrFailedPrecondition)
}

// sameMounts refuses a mount that only one of both has.
func sameMounts(was, now []specs.Mount) error {
	points := func(all []specs.Mount) map[string]bool {
		set := map[string]bool{}
		for _, m := range all {
			set[path.Clean("/"+m.Destination)] = true
		}
		return set
	}
	before, after := points(was), points(now)
	for at := range before {
		if !after[at] {
			return fmt.Errorf("the checkpoint has a mount at %.500q that the request has not: %w", at, errdefs.ErrFailedPrecondition)
		}
	}
	for at := range after {
		if !before[at] {
			return fmt.Errorf("the request has a mount at %.500q that the checkpoint has not, and that cannot be added: %w", at, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

func namespaceTypes(s *specs.Spec) []string {
	var types []string
	for _, n := range s.Linux.Namespaces {
		types = append(types, string(n.Type))
	}
	slices.Sort(types)
	return types
}

// sameProcess compares what a configuration says of the process.
func sameProcess(was, now *specs.Process) error {
	env := func(p *specs.Process) []string { return slices.Sorted(slices.Values(p.Env)) }
	groups := func(p *specs.Process) []uint32 { return slices.Sorted(slices.Values(p.User.AdditionalGids)) }
	switch {
	case !slices.Equal(was.Args, now.Args):
		return mismatch("the commands", was.Args, now.Args)
	case was.Cwd != now.Cwd:
		return mismatch("the working directories", was.Cwd, now.Cwd)
	case !slices.Equal(env(was), env(now)):
		return fmt.Errorf("the environments of the request and of the checkpoint differ: %w", errdefs.ErrFailedPrecondition)
	case was.User.UID != now.User.UID || was.User.GID != now.User.GID || !slices.Equal(groups(was), groups(now)):
		return mismatch("the users and groups", was.User, now.User)
	}
	return nil
}

// restoreOf is what a container to be started goes on from; nil if it begins anew.
func (s *checkpoints) restoreOf(c *container) (*monitor.Restore, error) {
	rec := c.rec.Load()
	if !rec.Restore {
		return nil, nil
	}
	options, err := criuOptions(rec.RestoreOptions)
	if err != nil {
		return nil, err
	}
	dir := s.checkpointDir(c.id)
	work := filepath.Join(dir, "restore")
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of CRIU's log: %w", err)
	}
	return &monitor.Restore{Images: filepath.Join(dir, checkpoint.ImagesDir), Work: work, CRIUOptions: options}, nil
}

// restoredFrom gives back what a container that runs went on from.
func (s *checkpoints) restoredFrom(c *container) {
	if !c.rec.Load().Restore {
		return
	}
	s.inBackground("remove checkpoint", func(ctx context.Context) error { return s.removeCheckpoint(ctx, c.id) })
}

// removeCheckpoint removes what a container would go on from; idempotent.
func (s *checkpoints) removeCheckpoint(_ context.Context, id string) error {
	return removeDump(s.checkpointDir(id))
}
