package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh." // other marks of aufs, which mean nothing here

	opaqueXattr = "trusted.overlay.opaque"

	// impliedDirMode is that of directories that the archive does not describe.
	impliedDirMode = 0o755
	blockSize      = 4096
	// maxLinks is how many links of one path may lead nowhere.
	maxLinks = 8
)

// treeWriter writes the entries of one archive below root. It is for one
// goroutine.
type treeWriter struct {
	root *os.File

	dirs       []dirTime           // in the archive's order
	implied    map[string]struct{} // directories that were not described
	remembered int                 // bytes of names in the two above
	entries    int
	resolving  time.Duration // spent on looking up paths
	opaqueRoot bool
	sparse     int64 // bytes that sparse files stand for
	usage      usage
	cached     uint64 // as Spec.Cached

	parents openDirs
	files   fileWriters
}

type usage struct{ bytes, inodes uint64 }

type dirTime struct {
	name  string
	mtime time.Time
}

func newTreeWriter(root *os.File, cached uint64) *treeWriter {
	return &treeWriter{
		root:    root,
		implied: map[string]struct{}{".": {}},
		usage:   usage{bytes: blockSize, inodes: 1},
		cached:  cached,
	}
}

// close ends what goes on beside the entries, and gives back descriptors.
func (t *treeWriter) close() error {
	t.parents.forget()
	t.parents.closeForgotten()
	return t.files.wait()
}

// parentOf is openParent with the directories of earlier entries at hand. The
// descriptor is the writer's, and good until the next call.
func (t *treeWriter) parentOf(dir string) (int, error) {
	if dir == "" {
		return int(t.root.Fd()), nil
	}
	t.parents.closeForgotten()
	if fd, ok := t.parents.fds[dir]; ok {
		return fd, nil
	}
	fd, err := t.openParent(dir)
	if err != nil {
		return -1, err
	}
	if fd != int(t.root.Fd()) {
		t.parents.keep(dir, fd)
	}
	return fd, nil
}

func (t *treeWriter) result() Result {
	r := Result{Bytes: t.usage.bytes, Inodes: t.usage.inodes, OpaqueRoot: t.opaqueRoot}
	for name := range t.implied {
		r.Implied = append(r.Implied, name)
	}
	return r
}

// unpack writes all entries; the reader is then at the archive's end mark.
func (t *treeWriter) unpack(r io.Reader) error {
	// The umask is the process's: modes are set after creation.
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if errors.Is(err, errUpstream) {
			return err
		}
		if err != nil {
			return fmt.Errorf("read archive: %w: %w", err, ErrHostile)
		}
		if t.entries++; t.entries > maxEntries {
			return fmt.Errorf("more than %d entries: %w", maxEntries, ErrHostile)
		}
		if err := t.entry(hdr, tr); err != nil {
			return fmt.Errorf("unpack %q: %w", abbreviate(hdr.Name), err)
		}
	}
}

func abbreviate(name string) string {
	const most = 200
	if len(name) > most {
		return name[:most] + "…"
	}
	return name
}

// localName cleans an entry's name to one below the root, "." for the root
// itself. A leading slash is common and means the root; ".." that leads out of it
// is not.
func localName(name string) (string, error) {
	if len(name) > maxNameLen {
		return "", fmt.Errorf("name of %d bytes: %w", len(name), ErrHostile)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("name with a zero byte: %w", ErrHostile)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("path leads out of the root: %w", ErrHostile)
	}
	return strings.TrimLeft(clean, "/"), nil
}

func (t *treeWriter) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := localName(hdr.Name)
	if err != nil {
		return err
	}
	if err := failpoint.Hit("layer/entry"); err != nil {
		return err
	}
	if err := checkOwner(hdr); err != nil {
		return err
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root is not a directory: %w", ErrHostile)
		}
		return t.rootEntry(hdr)
	}
	dir, base := path.Split(name)
	parent, err := t.parentOf(dir)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		if base == opaqueMarker && dir == "" {
			t.opaqueRoot = true
		}
		return t.whiteout(parent, base)
	}
	e := entry{hdr: hdr, name: name, base: base, parent: parent}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return t.directory(e)
	case tar.TypeReg, tar.TypeGNUSparse, '\x00', '7':
		return t.regular(e, r)
	case tar.TypeSymlink:
		return t.symlink(e)
	case tar.TypeLink:
		return t.hardlink(e)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return t.node(e)
	}
	return fmt.Errorf("unknown type %q of entry: %w", hdr.Typeflag, ErrHostile)
}

// entry is what a method needs of one entry of the archive.
type entry struct {
	hdr    *tar.Header
	name   string // cleaned
	base   string
	parent int // descriptor of its directory
}

// checkOwner refuses IDs that the kernel would take for others: -1 means
// "unchanged" and larger ones wrap around to root.
func checkOwner(hdr *tar.Header) error {
	const most = 1<<32 - 2
	if hdr.Uid < 0 || hdr.Uid > most || hdr.Gid < 0 || hdr.Gid > most {
		return fmt.Errorf("owner %d:%d out of range: %w", hdr.Uid, hdr.Gid, ErrHostile)
	}
	return nil
}

// resolveInRoot is how every path of the archive is looked up.
const resolveInRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openInRoot opens a directory of the tree. Links are followed inside the root.
func (t *treeWriter) openInRoot(name string) (int, error) {
	if t.resolving > maxResolving {
		return -1, fmt.Errorf("paths take more than %s to look up: %w", maxResolving, ErrHostile)
	}
	start := time.Now()
	defer func() { t.resolving += time.Since(start) }()
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOATIME, Resolve: resolveInRoot}
	for {
		fd, err := unix.Openat2(int(t.root.Fd()), name, &how)
		// EAGAIN: something was renamed on the machine during the look-up.
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// openParent opens the directory dir, making what is missing of it.
func (t *treeWriter) openParent(dir string) (int, error) { return t.openOrMake(dir, 0) }

// openOrMake is openParent behind links links that led nowhere.
func (t *treeWriter) openOrMake(dir string, links int) (int, error) {
	if dir == "" {
		return int(t.root.Fd()), nil
	}
	fd, err := t.openInRoot(dir)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ENOENT):
		return t.makeParents(dir, links)
	}
	return -1, dirError(dir, err)
}

// dirError tells a path that the archive has made unusable from a failing disk.
func dirError(dir string, err error) error {
	if errors.Is(err, ErrHostile) {
		return err
	}
	for _, e := range []error{unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EXDEV, unix.EEXIST, unix.ENOENT} {
		if errors.Is(err, e) {
			return fmt.Errorf("directory %q: %w: %w", abbreviate(dir), err, ErrHostile)
		}
	}
	return &os.PathError{Op: "open", Path: abbreviate(dir), Err: err}
}

// makeParents makes what is missing of dir, below the longest part of it that is
// there.
func (t *treeWriter) makeParents(dir string, links int) (int, error) {
	names := prefixes(strings.TrimSuffix(dir, "/"))
	fd, there, err := t.longest(names)
	if err != nil {
		return -1, dirError(dir, err)
	}
	for _, name := range names[there:] {
		next, err := t.makeImplied(fd, name, links)
		unix.Close(fd)
		if err != nil {
			return -1, dirError(name, err)
		}
		fd = next
	}
	return fd, nil
}

// prefixes of "a/b/c" are "a", "a/b" and "a/b/c".
func prefixes(dir string) []string {
	var names []string
	for i := 0; i < len(dir); i++ {
		if dir[i] == '/' {
			names = append(names, dir[:i])
		}
	}
	return append(names, dir)
}

// longest opens the longest of names that is there, the root if none is, and
// tells how many are. It looks at few of them: an archive can make each look
// long.
func (t *treeWriter) longest(names []string) (fd, there int, err error) {
	fd, err = unix.FcntlInt(t.root.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, 0, err
	}
	low, high := 0, len(names) // names[:low] are there, names[high:] are not
	for low < high {
		mid := (low + high) / 2
		next, err := t.openInRoot(names[mid])
		switch {
		case err == nil:
			unix.Close(fd)
			fd, low = next, mid+1
		case errors.Is(err, unix.ENOENT):
			high = mid
		default:
			unix.Close(fd)
			return -1, 0, err
		}
	}
	return fd, low, nil
}

// makeImplied makes the last component of name in the directory parent.
func (t *treeWriter) makeImplied(parent int, name string, links int) (int, error) {
	base := path.Base(name)
	err := unix.Mkdirat(parent, base, impliedDirMode)
	if errors.Is(err, unix.EEXIST) {
		return t.followDangling(parent, name, links)
	}
	if err != nil {
		return -1, err
	}
	t.count(blockSize)
	t.imply(name)
	fd, err := openDirAt(parent, base)
	if err != nil {
		return -1, err
	}
	if err := unix.Fchmod(fd, impliedDirMode); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// followDangling makes what the link name leads to, inside the root: the
// directory may be one of a layer below. Where it leads is decided by the kernel
// again once it is made.
func (t *treeWriter) followDangling(parent int, name string, links int) (int, error) {
	buf := make([]byte, maxNameLen)
	n, err := unix.Readlinkat(parent, path.Base(name), buf)
	if err != nil || n == len(buf) || links >= maxLinks {
		return -1, unix.ELOOP
	}
	target := string(buf[:n])
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(name), target)
	}
	target = strings.TrimLeft(path.Clean(target), "/")
	fd, err := t.openOrMake(target, links+1)
	if err != nil {
		return -1, err
	}
	if fd != int(t.root.Fd()) {
		unix.Close(fd)
	}
	return t.openInRoot(name)
}

func (t *treeWriter) imply(name string) {
	if t.remember(name) {
		t.implied[name] = struct{}{}
	}
}

// remember tells whether there is room for one more name.
func (t *treeWriter) remember(name string) bool {
	const overhead = 64
	if t.remembered += len(name) + overhead; t.remembered > maxRememberedBytes {
		return false
	}
	return true
}

func openDirAt(parent int, base string) (int, error) {
	return unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func (t *treeWriter) count(bytes uint64) {
	t.usage.bytes += bytes
	t.usage.inodes++
	t.files.drop = t.cached > 0 && t.usage.bytes > t.cached
}

// finish sets the times of the directories, which writing into them has
// changed. Directories that were replaced later keep what they have.
func (t *treeWriter) finish() error {
	if err := failpoint.Hit("layer/finish"); err != nil {
		return err
	}
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolveInRoot}
	for _, d := range t.dirs {
		fd, err := unix.Openat2(int(t.root.Fd()), d.name, &how)
		if err != nil {
			continue
		}
		err = setTimes(fd, "", d.mtime)
		unix.Close(fd)
		if err != nil {
			return &os.PathError{Op: "utimensat", Path: d.name, Err: err}
		}
	}
	return nil
}
