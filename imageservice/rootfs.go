package imageservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/berth-cri/berth/imageservice/overlay"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// mountpointMode lets the users of containers go through and not look around.
const mountpointMode = 0o711

// MountRootfs mounts a writable root file system of an image at mountpoint, which
// it makes if need be. Its layers stay until RemoveRootfs, whatever happens to
// the image. It is idempotent; a container that has a root file system keeps its
// image. What containers write does not outlive the machine's going down: asked
// for such a one, the error is errdefs.ErrFailedPrecondition.
//
// All files show the SELinux label, unless it is empty. With userns, the path of a user namespace, the files of the image belong to the
// IDs of that namespace. Nothing is copied or changed for it: the layers are
// mounted ID-mapped, and the writable layer is the namespace's from the start.
func (s *Service) MountRootfs(ctx context.Context, containerID, imageID, mountpoint, label, userns string) error {
	defer s.rootfs.lock(containerID)()
	err := s.mountRootfs(ctx, containerID, imageID, mountpoint, label, userns)
	if err != nil {
		return fmt.Errorf("mount root file system of container %s: %w", containerID, err)
	}
	return nil
}

func (s *Service) mountRootfs(ctx context.Context, containerID, imageID, mountpoint, label, userns string) error {
	if !filepath.IsAbs(mountpoint) {
		return fmt.Errorf("mountpoint %q is not an absolute path: %w", mountpoint, errdefs.ErrInvalidArgument)
	}
	rec, created, err := s.rootfsRecord(containerID, imageID, mountpoint)
	if err != nil {
		return err
	}
	if rec.Mountpoint == mountpoint && !created {
		if mounted, err := overlay.Mounted(mountpoint); err != nil || mounted {
			return err
		}
	}
	err = s.restoreLayers(ctx, rec.Layers)
	if err == nil {
		err = s.makeRootfs(rec, mountpoint, label, userns)
	}
	if err != nil {
		if created {
			err = errors.Join(err, overlay.Unmount(mountpoint), s.store.RemoveRootfs(containerID))
		}
		return err
	}
	return nil
}

// rootfsRecord returns the container's record, a new one if there is none.
func (s *Service) rootfsRecord(containerID, imageID, mountpoint string) (store.Rootfs, bool, error) {
	rec, err := s.store.Rootfs(containerID)
	if isNotFound(err) {
		img, err := s.lookup(imageID)
		if err == nil {
			err = runnable(img)
		}
		if err != nil {
			return rec, false, err
		}
		return s.store.CreateRootfs(containerID, img.ID, mountpoint)
	}
	if err != nil {
		return rec, false, err
	}
	if !s.store.Trusted(rec) {
		return rec, false, fmt.Errorf("it was written before the machine went down: %w", errdefs.ErrFailedPrecondition)
	}
	if rec.Mountpoint != mountpoint {
		if err := overlay.Unmount(rec.Mountpoint); err != nil {
			return rec, false, err
		}
		return rec, false, s.store.MoveRootfs(containerID, mountpoint)
	}
	return rec, false, nil
}

// makeRootfs makes the directories and mounts.
func (s *Service) makeRootfs(rec store.Rootfs, mountpoint, label, userns string) error {
	upper, work := s.store.Upper(rec.ContainerID), s.store.Work(rec.ContainerID)
	layers, err := s.visible(rec.Layers)
	if err != nil {
		return err
	}
	lower := s.lowerDirs(layers)
	if err := failpoint.Hit("rootfs/make"); err != nil {
		return err
	}
	if err := s.makeUpper(upper, layers, userns); err != nil {
		return fmt.Errorf("make writable layer: %w", diskError(err))
	}
	// A volatile overlay that was mounted before has left a mark, which keeps the
	// kernel from mounting it again; in the same boot nothing was lost.
	if err := tree.RemovePath(filepath.Dir(work), filepath.Base(work)); err != nil {
		return err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return fmt.Errorf("make work directory: %w", diskError(err))
	}
	if err := os.MkdirAll(mountpoint, mountpointMode); err != nil {
		return fmt.Errorf("make mountpoint: %w", diskError(err))
	}
	if err := failpoint.Hit("rootfs/mount"); err != nil {
		return err
	}
	return overlay.Mount{Lower: lower, Upper: upper, Work: work, Label: label, Target: mountpoint, UserNS: userns}.Do()
}

// visible are the layers from the topmost one that hides all below it.
func (s *Service) visible(layers []digest.Digest) ([]digest.Digest, error) {
	for i, id := range slices.Backward(layers) {
		l, err := s.store.Layer(id)
		if err != nil {
			return nil, err
		}
		if l.OpaqueRoot {
			return layers[i:], nil
		}
	}
	return layers, nil
}

// lowerDirs are the trees of layers, topmost first. One that occurs twice counts
// where it is highest: there it covers whatever it says further down.
func (s *Service) lowerDirs(layers []digest.Digest) []string {
	var dirs []string
	seen := map[digest.Digest]bool{}
	for _, id := range slices.Backward(layers) {
		if !seen[id] {
			seen[id] = true
			dirs = append(dirs, s.store.Diff(id))
		}
	}
	if len(dirs) == 0 {
		dirs = []string{s.store.EmptyLayer()}
	}
	return dirs
}

// UnmountRootfs unmounts a container's root file system and keeps what was
// written. It is idempotent.
func (s *Service) UnmountRootfs(_ context.Context, containerID string) error {
	defer s.rootfs.lock(containerID)()
	rec, err := s.store.Rootfs(containerID)
	if isNotFound(err) {
		return nil
	}
	if err == nil {
		err = s.unmount(rec)
	}
	if err != nil {
		return fmt.Errorf("unmount root file system of container %s: %w", containerID, err)
	}
	return nil
}

func (s *Service) unmount(rec store.Rootfs) error {
	if rec.Mountpoint == "" {
		return nil // its record was lost with the machine, and its mount too
	}
	return overlay.Unmount(rec.Mountpoint)
}

// RemoveRootfs unmounts a container's root file system and removes what was
// written, its volumes, and the layers that nothing needs any more; images that it
// alone had mounted are unmounted. The mountpoint stays. It is idempotent.
func (s *Service) RemoveRootfs(_ context.Context, containerID string) error {
	defer s.rootfs.lock(containerID)()
	if err := s.releaseVolumes(containerID); err != nil {
		return fmt.Errorf("remove volumes of container %s: %w", containerID, err)
	}
	rec, err := s.store.Rootfs(containerID)
	if isNotFound(err) {
		return nil
	}
	if err == nil {
		err = s.unmount(rec)
	}
	if err == nil {
		failpoint.Pass("rootfs/unmounted")
		err = s.store.RemoveRootfs(containerID)
	}
	if err != nil {
		return fmt.Errorf("remove root file system of container %s: %w", containerID, err)
	}
	return nil
}

// RootfsUsage returns what a container's writable layer held when it was last
// measured, in bytes on the disk and inodes. The measurements run in the
// background; before the first one, both are zero.
func (s *Service) RootfsUsage(_ context.Context, containerID string) (bytes, inodes uint64, err error) {
	u, err := s.store.RootfsUsage(containerID)
	return u.Bytes, u.Inodes, err
}

// Rootfs returns the IDs of the containers that have a root file system, or
// something else that RemoveRootfs removes.
func (s *Service) Rootfs(context.Context) ([]string, error) {
	ids := s.store.RootfsIDs()
	return append(ids, s.volumeContainers(ids)...), nil
}

// ProbeUserNamespaces finds out whether root file systems can be mounted for user
// namespaces; userns is the path of one. The error says what is missing.
func (s *Service) ProbeUserNamespaces(userns string) error {
	if err := overlay.ProbeIDMap(s.store.Scratch("idmap"), userns); err != nil {
		return fmt.Errorf("mount a root file system with ID-mapped layers: %w", err)
	}
	return nil
}
