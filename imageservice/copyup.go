package imageservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// MakeVolumes makes a directory for each path of a container's mounted root file
// system, filled with what is there: content, owners and modes. A path that does
// not exist gives an empty directory of the container's root. The directories are
// removed by RemoveRootfs and counted by RootfsUsage. What an earlier call made is
// made anew. A path that is no directory is errdefs.ErrInvalidArgument.
func (s *Service) MakeVolumes(ctx context.Context, containerID string, paths []string) ([]string, error) {
	defer s.rootfs.lock(containerID)()
	rec, err := s.store.Rootfs(containerID)
	if err != nil {
		return nil, err
	}
	root, err := openPathDir(rec.Mountpoint)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	base := s.store.Volumes(containerID)
	if err := tree.RemovePath(filepath.Dir(base), filepath.Base(base)); err != nil {
		return nil, err
	}
	if err := os.Mkdir(base, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of volumes: %w", diskError(err))
	}
	dirs := make([]string, len(paths))
	for i, path := range paths {
		dirs[i] = filepath.Join(base, strconv.Itoa(i))
		if err := makeVolume(ctx, root, path, dirs[i]); err != nil {
			return nil, fmt.Errorf("fill the volume at %q: %w", path, diskError(err))
		}
	}
	return dirs, nil
}

func makeVolume(ctx context.Context, root int, path, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	to, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	// Links are followed as the container would, never out of its root.
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return ownedByRoot(root, to)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return fmt.Errorf("what the image has there is no directory: %w", errdefs.ErrInvalidArgument)
	case err != nil:
		return err
	}
	from := os.NewFile(uintptr(fd), path)
	defer from.Close()
	return tree.Copy(ctx, from, to)
}

// ownedByRoot gives the directory to whom the root file system belongs, which in
// a user namespace is not the node's root.
func ownedByRoot(root int, dir *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return err
	}
	return errors.Join(dir.Chown(int(st.Uid), int(st.Gid)), dir.Chmod(0o755))
}
