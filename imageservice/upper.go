package imageservice

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/berth-cri/berth/imageservice/overlay"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// makeUpper makes the writable layer's directory. It starts with the directories
// that need to be there: the root, whose mode and owner overlayfs takes from it,
// and those that some layer has without describing them ("implied"). overlayfs
// would show such a directory the way the topmost layer has it, though what the
// image means is the description in a layer below.
//
// With userns, the path of a user namespace, they belong to that namespace's IDs.
func (s *Service) makeUpper(upper string, layers []digest.Digest, userns string) error {
	err := os.Mkdir(upper, 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil // mounted before
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(upper, 0o755); err != nil { // whatever the umask is
		return err
	}
	names, err := s.impliedDirs(layers)
	if err != nil {
		return err
	}
	root, err := openPathDir(upper)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	trees, err := s.openTrees(layers, userns)
	if err != nil {
		return err
	}
	defer trees.close()
	if err := trees.giveToRoot(root); err != nil {
		return err
	}
	for _, name := range names {
		if err := trees.describeDir(root, name); err != nil {
			return fmt.Errorf("directory %q: %w", name, err)
		}
	}
	return nil
}

// impliedDirs are all of the layers, parents before what they contain, and the
// root.
func (s *Service) impliedDirs(layers []digest.Digest) ([]string, error) {
	set := map[string]bool{".": true}
	for _, id := range layers {
		l, err := s.store.Layer(id)
		if err != nil {
			return nil, err
		}
		for _, name := range l.Implied {
			set[name] = true
		}
	}
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	return names, nil
}

// trees are a root file system's layers, the lowest first, opened as it shows
// them: an attribute read there is the one to copy.
type trees struct {
	layers []openLayer
	// empty is an empty directory of root.
	empty int
}

type openLayer struct {
	fd      int
	implied []string
}

func (s *Service) openTrees(layers []digest.Digest, userns string) (_ *trees, err error) {
	t := &trees{empty: -1}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.empty, err = openMappedDir(s.store.EmptyLayer(), userns); err != nil {
		return nil, err
	}
	for _, id := range layers {
		l, err := s.store.Layer(id)
		if err != nil {
			return nil, err
		}
		fd, err := openMappedDir(s.store.Diff(id), userns)
		if err != nil {
			return nil, err
		}
		t.layers = append(t.layers, openLayer{fd, l.Implied})
	}
	return t, nil
}

func openMappedDir(dir, userns string) (int, error) {
	if userns == "" {
		return openPathDir(dir)
	}
	return overlay.OpenMapped(dir, userns)
}

func (t *trees) close() {
	if t.empty >= 0 {
		unix.Close(t.empty)
	}
	for _, l := range t.layers {
		unix.Close(l.fd)
	}
}

// giveToRoot gives the directory to the root of the layers' user namespace.
func (t *trees) giveToRoot(dir int) error {
	var st unix.Stat_t
	if err := unix.Fstat(t.empty, &st); err != nil {
		return err
	}
	return unix.Fchown(dir, int(st.Uid), int(st.Gid))
}

// describeDir gives the directory name of the writable layer the attributes that
// the topmost layer which describes it has; if none does, or if it is covered by
// something else, nothing is to be done.
func (t *trees) describeDir(root int, name string) error {
	source, ok, err := t.describedIn(name)
	if err != nil || !ok {
		return err
	}
	defer unix.Close(source)
	var st unix.Stat_t
	if err := unix.Fstat(source, &st); err != nil {
		return err
	}
	target, err := t.upperDir(root, name)
	if err != nil || target < 0 {
		return err
	}
	defer unix.Close(target)
	return copyDirAttributes(target, source, &st)
}

// describedIn opens name in the topmost layer that describes it. ok is false when
// the topmost layer that has it does: then overlayfs shows the right one.
func (t *trees) describedIn(name string) (fd int, ok bool, err error) {
	implied := false
	for _, l := range slices.Backward(t.layers) {
		fd, st, err := openBeneath(l.fd, name)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR:
			if err == nil {
				unix.Close(fd)
			}
			return -1, false, nil // covered by a file, a link or a whiteout
		case !slices.Contains(l.implied, name):
			if implied || name == "." {
				return fd, true, nil
			}
			unix.Close(fd)
			return -1, false, nil
		case isOpaque(fd):
			unix.Close(fd)
			return -1, false, nil // what is below does not show
		}
		unix.Close(fd)
		implied = true
	}
	return -1, false, nil
}

// upperDir opens name below root and makes it, with those of its parents that are
// missing: each as the overlay will show it.
func (t *trees) upperDir(root int, name string) (int, error) {
	if name == "." {
		return unix.FcntlInt(uintptr(root), unix.F_DUPFD_CLOEXEC, 0)
	}
	parent := root
	parts := strings.Split(name, "/")
	for i, part := range parts {
		err := unix.Mkdirat(parent, part, 0o755)
		made := err == nil
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
		fd, err := unix.Openat(parent, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if parent != root {
			unix.Close(parent)
		}
		if err != nil {
			return -1, err
		}
		if made && i < len(parts)-1 {
			if err := t.copyTopmost(fd, path.Join(parts[:i+1]...)); err != nil {
				unix.Close(fd)
				return -1, err
			}
		}
		parent = fd
	}
	return parent, nil
}

// copyTopmost gives fd the attributes that name has in the topmost layer with it.
func (t *trees) copyTopmost(fd int, name string) error {
	for _, l := range slices.Backward(t.layers) {
		source, st, err := openBeneath(l.fd, name)
		if err != nil {
			continue
		}
		err = copyDirAttributes(fd, source, &st)
		unix.Close(source)
		return err
	}
	return nil
}

func openPathDir(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// openBeneath opens what has the name, without following a link anywhere on the
// way.
func openBeneath(dir int, name string) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_DIRECTORY,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

func isOpaque(fd int) bool {
	var value [1]byte
	n, err := unix.Fgetxattr(fd, "trusted.overlay.opaque", value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

// copyDirAttributes copies owner, mode, user attributes and time.
func copyDirAttributes(to, from int, st *unix.Stat_t) error {
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyUserXattrs(to, from); err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, ".", []unix.Timespec{st.Atim, st.Mtim}, 0)
}

func copyUserXattrs(to, from int) error {
	buf := make([]byte, 64<<10)
	n, err := unix.Flistxattr(from, buf)
	if err != nil {
		return nil // a file system without, or more than a layer may have
	}
	value := make([]byte, 64<<10)
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		m, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			continue
		}
		if err := unix.Fsetxattr(to, name, value[:m], 0); err != nil {
			return err
		}
	}
	return nil
}

// diskError gives a full disk its kind.
func diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}
