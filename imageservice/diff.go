package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/berth-cri/berth/imageservice/overlay"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// ExportRootfs writes what a container has changed in its root file system as an archive
// in the form of an image's layer. Sockets are left out. Who wants one state of it sees to
// it that nothing is written meanwhile.
func (s *Service) ExportRootfs(ctx context.Context, containerID string, w io.Writer) error {
	defer s.rootfs.lock(containerID)()
	if err := s.exportRootfs(ctx, containerID, w); err != nil {
		return fmt.Errorf("export changes of container %s: %w", containerID, err)
	}
	return nil
}

func (s *Service) exportRootfs(ctx context.Context, containerID string, w io.Writer) error {
	if _, err := s.store.Rootfs(containerID); err != nil {
		return err
	}
	upper, err := os.Open(s.store.Upper(containerID))
	if err != nil {
		return fmt.Errorf("open writable layer: %w", err)
	}
	defer upper.Close()
	return layer.Pack(ctx, upper, w, layer.PackOptions{})
}

// MountRootfsFrom is MountRootfs for a container that has none yet, with the changes that
// an archive as ExportRootfs writes it holds. The archive is trusted as little as a layer:
// a hostile one is errdefs.ErrInvalidArgument. After an error nothing is left.
func (s *Service) MountRootfsFrom(ctx context.Context, containerID, imageID, mountpoint, label string, changes io.ReadSeeker) error {
	defer s.rootfs.lock(containerID)()
	if err := s.mountRootfsFrom(ctx, containerID, imageID, mountpoint, label, changes); err != nil {
		return fmt.Errorf("mount root file system of container %s with changes: %w", containerID, err)
	}
	return nil
}

func (s *Service) mountRootfsFrom(ctx context.Context, containerID, imageID, mountpoint, label string, changes io.ReadSeeker) (err error) {
	blob, err := archiveSpec(changes)
	if err != nil {
		return err
	}
	rec, created, err := s.rootfsRecord(containerID, imageID, mountpoint)
	if err != nil {
		return err
	}
	if !created {
		return fmt.Errorf("it has one already: %w", errdefs.ErrAlreadyExists)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, overlay.Unmount(mountpoint), s.store.RemoveRootfs(containerID))
		}
	}()
	layers, err := s.visible(rec.Layers)
	if err != nil {
		return err
	}
	upper := s.store.Upper(containerID)
	if err := s.makeUpper(upper, layers, ""); err != nil {
		return fmt.Errorf("make writable layer: %w", diskError(err))
	}
	root, err := os.Open(upper)
	if err != nil {
		return fmt.Errorf("open writable layer: %w", err)
	}
	defer root.Close()
	if _, err := layer.Unpack(ctx, io.NopCloser(changes), blob, root, nil); err != nil {
		return fmt.Errorf("write changes: %w", diskError(err))
	}
	return s.makeRootfs(rec, mountpoint, label, "")
}

// archiveSpec describes an archive that is read from its beginning then.
func archiveSpec(archive io.ReadSeeker) (layer.Spec, error) {
	sum := digest.Canonical.Digester()
	size, err := io.Copy(sum.Hash(), archive)
	if err == nil {
		_, err = archive.Seek(0, io.SeekStart)
	}
	if err != nil {
		return layer.Spec{}, fmt.Errorf("read archive: %w", err)
	}
	return layer.Spec{Digest: sum.Digest(), Size: size}, nil
}

// CheckpointOf tells whether an image holds a checkpoint of a container in place of a root
// file system, as the annotations of its manifest say; errdefs.ErrNotFound if there is no
// such image.
func (s *Service) CheckpointOf(_ context.Context, ref string) (bool, error) {
	img, err := s.lookup(ref)
	if err != nil {
		return false, err
	}
	for _, name := range checkpointAnnotations {
		if img.Annotations[name] != "" {
			return true, nil
		}
	}
	return false, nil
}

// checkpointAnnotations mark images of checkpoints: that of CRIU's own tools and that of
// CRI-O.
var checkpointAnnotations = []string{"org.criu.checkpoint.container.name", "io.kubernetes.cri-o.annotations.checkpoint.name"}
