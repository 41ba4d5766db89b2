package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/checkpoint"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/record"
)

const (
	// checkpointTimeout is how long containers may stand still where a request says nothing.
	checkpointTimeout = 2 * time.Minute
	// thawMargin is taken off the deadline of a request, so that its containers go on
	// before it is over.
	thawMargin = 200 * time.Millisecond
	// thawTimeout bounds the call that lets them go on; the monitor does so by itself too.
	thawTimeout = 30 * time.Second
)

// Checkpoints freezes, dumps and thaws containers: a part of Processes.
type Checkpoints interface {
	// Freeze has containers stand still, all or none, until Thaw, for longest at most.
	Freeze(ctx context.Context, ids []string, longest time.Duration) error
	// FreezeToDump is Freeze where CRIU can be used, else ErrFailedPrecondition.
	FreezeToDump(ctx context.Context, ids []string, longest time.Duration) error
	// Dump writes CRIU's images of a frozen container into an existing directory.
	Dump(ctx context.Context, id, images string, options monitor.CRIUOptions) error
	// Thaw lets them go on; ErrFailedPrecondition if one of them did already.
	Thaw(ctx context.Context, ids []string) error
}

// WritableLayers are what containers have written to their root file systems.
type WritableLayers interface {
	// ExportRootfs writes them as an archive in the form of a layer.
	ExportRootfs(ctx context.Context, containerID string, w io.Writer) error
	// MountRootfsFrom is MountRootfs of RootFilesystems with what such an archive holds.
	// A hostile one is ErrInvalidArgument.
	MountRootfsFrom(ctx context.Context, containerID, imageID, mountpoint, label string, changes io.ReadSeeker) error
	// CheckpointOf tells whether an image is one of a checkpoint; ErrNotFound if there is
	// none of that name.
	CheckpointOf(ctx context.Context, image string) (bool, error)
}

// checkpoints writes checkpoints of running containers and pods, and keeps what containers
// that were not started yet are to go on from. It makes no container: restore_pod.go and
// restore_source.go tell how Service does, of those.
type checkpoints struct {
	sandboxes  *table[sandboxKey, *sandbox]
	containers *table[containerKey, *container]
	monitor    Checkpoints
	layers     WritableLayers
	rootfs     RootFilesystems
	specs      *record.Store[specs.Spec]
	log        *slog.Logger
	// root holds a directory for each checkpoint under way, and for each container that is
	// to go on from one and was not started yet. All have IDs as names.
	root string
	// background counts what an end of the daemon waits for; inBackground and leave are
	// those of Service.
	background   *underWay
	inBackground func(what string, do func(context.Context) error)
	leave        func(leftover)
}

func newCheckpoints(s *Service) *checkpoints {
	return &checkpoints{
		sandboxes: s.sandboxes, containers: s.containers, monitor: s.opts.Processes,
		layers: s.opts.WritableLayers, rootfs: s.opts.RootFilesystems, specs: s.specs, log: s.log,
		root:       filepath.Join(s.opts.Root, "checkpoints"),
		background: &s.background, inBackground: s.inBackground, leave: s.leave,
	}
}

func (s *checkpoints) checkpointDir(id string) string { return filepath.Join(s.root, id) }

// requireCheckpointable is the error of what cannot be part of a checkpoint.
func (c *container) requireCheckpointable() error {
	if err := c.requireRunning(); err != nil {
		return err
	}
	if c.sandbox.userNamespace() != "" {
		return fmt.Errorf("container %s is in a user namespace of its pod, which CRIU cannot restore: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if c.sandbox.rec.Load().PodInit {
		return fmt.Errorf("container %s shares the PID namespace of its pod, from which CRIU cannot take one container: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// dumped is a container and the directory that its checkpoint goes to.
type dumped struct {
	c   *container
	dir string
}

// dumpAll writes the checkpoints of containers of one pod, all as they are at one instant:
// every one is frozen before the first is looked at, and goes on after the last, whatever
// happens. It returns when they go on. It is an error if one did not stand still all the
// time.
func (s *checkpoints) dumpAll(ctx context.Context, all []dumped, options monitor.CRIUOptions) (err error) {
	ids := make([]string, len(all))
	for i, d := range all {
		ids[i] = d.c.id
		if err := os.MkdirAll(filepath.Join(d.dir, checkpoint.ImagesDir), 0o700); err != nil {
			return fmt.Errorf("make directory of checkpoint: %w", err)
		}
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return fmt.Errorf("checkpoint without a deadline: %w", errdefs.ErrInternal)
	}
	longest := time.Until(deadline) - thawMargin
	if longest <= 0 {
		return context.DeadlineExceeded
	}
	// Also after an error of the freezing: it can be on its way.
	defer func() {
		if thawed := s.thaw(ctx, ids); err == nil {
			err = thawed
		}
	}()
	if err := operation.Do(ctx, "freeze", func(ctx context.Context) error { return s.monitor.FreezeToDump(ctx, ids, longest) }); err != nil {
		return err
	}
	for _, d := range all {
		if err := s.dumpOne(ctx, d, options); err != nil {
			return err
		}
	}
	return nil
}

// thaw does not depend on the request. Whatever fails, the monitor thaws in time.
func (s *checkpoints) thaw(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	return operation.Do(ctx, "thaw", func(ctx context.Context) error { return s.monitor.Thaw(ctx, ids) })
}

// dumpOne writes all of a frozen container.
func (s *checkpoints) dumpOne(ctx context.Context, d dumped, options monitor.CRIUOptions) error {
	if err := s.monitor.Dump(ctx, d.c.id, filepath.Join(d.dir, checkpoint.ImagesDir), options); err != nil {
		return err
	}
	if err := operation.Do(ctx, "export changes", func(ctx context.Context) error { return s.exportRootfs(ctx, d) }); err != nil {
		return err
	}
	return s.describeDump(d)
}

func (s *checkpoints) exportRootfs(ctx context.Context, d dumped) (err error) {
	f, err := os.OpenFile(filepath.Join(d.dir, checkpoint.RootfsFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write changes of root file system: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return s.layers.ExportRootfs(ctx, d.c.id, f)
}

// describeDump writes what the container is.
func (s *checkpoints) describeDump(d dumped) error {
	ociSpec, err := s.specs.Get(d.c.id)
	if err != nil {
		return fmt.Errorf("read specification of container %s: %w", d.c.id, err)
	}
	rec := d.c.rec.Load()
	saved := *ociSpec
	saved.Annotations = dumpAnnotations(d.c)
	return checkpoint.Write(d.dir, &checkpoint.Container{
		Config: checkpoint.Config{
			ID: rec.ID, Name: d.c.key.name,
			RootfsImage: rec.ImageID, RootfsImageRef: rec.ImageRef, RootfsImageName: rec.ImageName,
			Runtime:     d.c.sandbox.rec.Load().Runtime,
			CreatedTime: time.Unix(0, rec.CreatedAt).UTC(), CheckpointedAt: time.Now().UTC(),
		},
		Spec: saved,
	}, containerStatus(d.c))
}

// dumpAnnotations tell tools which container of which pod it was, in the words of
// containerd, which they know.
func dumpAnnotations(c *container) map[string]string {
	pod := c.sandbox.config.GetMetadata()
	return map[string]string{
		"io.container.manager":                "berth",
		"io.kubernetes.cri.container-type":    "container",
		"io.kubernetes.cri.container-name":    c.key.name,
		"io.kubernetes.cri.sandbox-name":      pod.GetName(),
		"io.kubernetes.cri.sandbox-namespace": pod.GetNamespace(),
		"io.kubernetes.cri.sandbox-uid":       pod.GetUid(),
	}
}

// criuOptionNames are the keys of a pod's checkpoint and restore options.
const (
	optionTCPEstablished = "tcp-established"
	optionFileLocks      = "file-locks"
	optionExternalUnix   = "ext-unix-sk"
)

// criuOptions reads the options of a request; ErrInvalidArgument for one that is not known.
func criuOptions(options map[string]string) (monitor.CRIUOptions, error) {
	var o monitor.CRIUOptions
	known := map[string]*bool{
		optionTCPEstablished: &o.TCPEstablished, optionFileLocks: &o.FileLocks, optionExternalUnix: &o.ExternalUnix,
	}
	for name, value := range options {
		option, ok := known[name]
		field := fmt.Sprintf("options[%.100q]", name)
		switch {
		case !ok:
			return o, invalid(field, "there is no such option; there are %s, %s and %s", optionTCPEstablished, optionFileLocks, optionExternalUnix)
		case value == "true":
			*option = true
		case value != "false":
			return o, invalid(field, "%.100q is neither true nor false", value)
		}
	}
	return o, nil
}

// removeDump removes what is below a directory of ours.
func removeDump(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove files of checkpoint: %w", err)
	}
	return nil
}
