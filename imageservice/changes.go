package imageservice

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/idmap"
	"github.com/berth-cri/berth/imageservice/layer"
)

// The kinds of changes.
const (
	Added   = "added"
	Changed = "changed"
	Deleted = "deleted"
)

// Change is what a container has done to one path of its image.
type Change struct {
	Kind string
	Path string // absolute
}

// WrittenOptions say what of a container's writable layer counts.
type WrittenOptions struct {
	// Mounts are the absolute paths at which the container has something mounted: what
	// is there below was made for the mount.
	Mounts []string
	// IDs is the mapping of the container's user namespace.
	IDs idmap.Map
}

// mounts returns the paths without leading slash, and the directories that they are in.
func (o WrittenOptions) mounts() (paths, parents map[string]bool) {
	paths, parents = map[string]bool{}, map[string]bool{}
	for _, m := range o.Mounts {
		clean := path.Clean("/" + m)[1:]
		paths[clean], parents[path.Dir(clean)] = true, true
	}
	return paths, parents
}

// maxChangesDepth bounds how deep the directories may be that a container has made.
const maxChangesDepth = 1000

// Changes calls each with every path that differs from the image, in order. It reads what the
// container wrote, and of the image only what has the same names. A file that was opened for
// writing counts as changed. A directory that was removed and made anew is deleted and then
// added, with what is in it now. The root itself is not looked at.
func (s *Service) Changes(ctx context.Context, containerID string, o WrittenOptions, each func(Change) error) error {
	if err := s.changes(ctx, containerID, o, each); err != nil {
		return fmt.Errorf("look for changes of container %s: %w", containerID, err)
	}
	return nil
}

func (s *Service) changes(ctx context.Context, containerID string, o WrittenOptions, each func(Change) error) error {
	rec, err := s.store.Rootfs(containerID)
	if err != nil {
		return err
	}
	layers, err := s.visible(rec.Layers)
	if err != nil {
		return err
	}
	lower, err := s.openTrees(layers, "")
	if err != nil {
		return err
	}
	defer lower.close()
	upper, err := os.Open(s.store.Upper(containerID))
	if err != nil {
		return fmt.Errorf("open writable layer: %w", err)
	}
	defer upper.Close()
	all := slices.Clone(lower.layers)
	slices.Reverse(all)
	c := comparison{ctx: ctx, ids: o.IDs, each: each}
	c.mounts, c.parents = o.mounts()
	return c.dir(upper, ".", all, 0)
}

// comparison is one run of Changes.
type comparison struct {
	ctx  context.Context
	ids  idmap.Map
	each func(Change) error
	// mounts are left out; in parents names were made for them.
	mounts, parents map[string]bool
}

// dir compares what is in a directory of the writable layer. lower are the image's layers
// that show there, the topmost first.
func (c *comparison) dir(upper *os.File, name string, lower []openLayer, depth int) error {
	if depth > maxChangesDepth {
		return fmt.Errorf("more than %d directories deep: %w", maxChangesDepth, errdefs.ErrFailedPrecondition)
	}
	entries, err := upper.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(entries)
	for _, base := range entries {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		if below := path.Join(name, base); !c.mounts[below] {
			if err := c.entry(upper, base, below, lower, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *comparison) entry(dir *os.File, base, name string, lower []openLayer, depth int) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil // the container runs
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	old, err := lookupIn(lower, name)
	if err != nil {
		return err
	}
	switch {
	case layer.IsWhiteout(&st):
		return c.tell(old.exists, Deleted, name)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return errors.Join(c.tell(old.exists, Changed, name), c.tell(!old.exists, Added, name))
	}
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // removed or replaced meanwhile
	}
	upper := os.NewFile(uintptr(fd), name)
	defer upper.Close()
	if err := c.directory(upper, name, &st, old); err != nil {
		return err
	}
	if isOpaque(fd) {
		old.dirs = nil
	}
	return c.dir(upper, name, old.dirs, depth+1)
}

// directory tells of a directory itself.
func (c *comparison) directory(upper *os.File, name string, st *unix.Stat_t, old lookup) error {
	switch {
	case !old.exists:
		return c.tell(true, Added, name)
	case len(old.dirs) == 0:
		return c.tell(true, Changed, name) // it was no directory
	case isOpaque(int(upper.Fd())):
		return errors.Join(c.tell(true, Deleted, name), c.tell(true, Added, name))
	}
	same, err := c.sameDirectory(upper, st, old.dirs, name)
	if err != nil {
		return err
	}
	return c.tell(!same, Changed, name)
}

func (c *comparison) tell(so bool, kind, name string) error {
	if !so {
		return nil
	}
	return c.each(Change{Kind: kind, Path: "/" + name})
}

// sameDirectory compares the attributes with those that the image means: of the topmost layer
// that describes the directory.
func (c *comparison) sameDirectory(upper *os.File, st *unix.Stat_t, lower []openLayer, name string) (bool, error) {
	described := lower[0]
	for _, l := range lower {
		if !slices.Contains(l.implied, name) {
			described = l
			break
		}
	}
	fd, old, err := openBeneath(described.fd, name)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if st.Mode != old.Mode || st.Mtim != old.Mtim && !c.parents[name] || c.ids.UIDs.Inside(st.Uid) != old.Uid || c.ids.GIDs.Inside(st.Gid) != old.Gid {
		return false, nil
	}
	now, err := layer.Xattrs(int(upper.Fd()))
	if err != nil {
		return false, err
	}
	before, err := layer.Xattrs(fd)
	return maps.Equal(now, before), err
}

// lookup is what the image has under a name.
type lookup struct {
	exists bool
	// dirs are the layers whose directories of that name show; none if it is none.
	dirs []openLayer
}

// lookupIn looks a name up in layers, the topmost first, in all of which its directory is one
// that shows.
func lookupIn(lower []openLayer, name string) (lookup, error) {
	var l lookup
	for _, candidate := range lower {
		fd, err := unix.Openat2(candidate.fd, name, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENAMETOOLONG) {
			continue
		}
		if err != nil {
			return l, &os.PathError{Op: "look up in the image", Path: name, Err: err}
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		switch {
		case err != nil:
			return l, &os.PathError{Op: "stat", Path: name, Err: err}
		case st.Mode&unix.S_IFMT != unix.S_IFDIR:
			l.exists = l.exists || !layer.IsWhiteout(&st)
			return l, nil
		}
		l.exists = true
		l.dirs = append(l.dirs, candidate)
		if opaqueBeneath(candidate.fd, name) {
			return l, nil
		}
	}
	return l, nil
}

func opaqueBeneath(dir int, name string) bool {
	fd, _, err := openBeneath(dir, name)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return isOpaque(fd)
}
