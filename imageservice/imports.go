package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/operation"
)

const (
	// importInterval is how often watched folders are looked at. That sees what comes on
	// file systems too that tell of no changes.
	importInterval = 2 * time.Second
	// importSettle is how long a file must not have changed before it is read.
	importSettle = 2 * time.Second
	// A failure that is not the file's, as of a full disk, is tried again after a wait that
	// doubles.
	importBackoff, importMaxBackoff = 10 * time.Second, 10 * time.Minute
)

// ImportState is what became of a file in a watched folder.
type ImportState string

// The states of a file.
const (
	ImportWaiting  ImportState = "waiting" // it changes, or its turn has not come
	ImportImported ImportState = "imported"
	ImportFailed   ImportState = "failed"
)

// Import is a file in a watched folder.
type Import struct {
	Path  string
	State ImportState
	Err   error // why it failed
}

// Imports tells of the files in the watched folders, ordered by path.
func (s *Service) Imports() []Import { return s.imports.list() }

// importer keeps the images in watched folders imported and pinned: those of a file stay
// pinned until the file is gone, or other content of it is imported. What is imported is on
// the images' records, so that a restart does not read it again.
type importer struct {
	s    *Service
	dirs []string

	mu    sync.Mutex             // guards the rest
	files map[string]*importFile // by path
	// unreadable are folders, with what was said of them.
	unreadable map[string]string
}

// importFile is what is known of a file that is there.
type importFile struct {
	version string // tells one content from another
	since   time.Time
	state   ImportState
	err     error
	tries   int
	again   time.Time // zero for never
}

func newImporter(s *Service, dirs []string) *importer {
	im := &importer{s: s, files: map[string]*importFile{}, unreadable: map[string]string{}}
	for _, dir := range dirs {
		if dir = filepath.Clean(dir); !slices.Contains(im.dirs, dir) {
			im.dirs = append(im.dirs, dir)
		}
	}
	return im
}

func (im *importer) list() []Import {
	im.mu.Lock()
	defer im.mu.Unlock()
	var list []Import
	for _, path := range slices.Sorted(maps.Keys(im.files)) {
		list = append(list, Import{Path: path, State: im.files[path].state, Err: im.files[path].err})
	}
	return list
}

// run looks at the folders until ctx ends. Without any it takes off what folders have pinned
// that are not watched any more.
func (im *importer) run(ctx context.Context) {
	tick := time.NewTicker(importInterval)
	defer tick.Stop()
	for {
		im.scan(ctx, time.Now())
		if len(im.dirs) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// scan looks at the folders once, and imports what is ready.
func (im *importer) scan(ctx context.Context, now time.Time) {
	for _, path := range im.look(now) {
		if ctx.Err() != nil {
			return
		}
		if err := im.load(ctx, path); ctx.Err() == nil {
			im.settle(path, err, now)
		}
	}
	if ctx.Err() == nil {
		im.unpin()
	}
}

// look takes note of the files that are there, and returns those to import.
func (im *importer) look(now time.Time) (ready []string) {
	for _, dir := range im.dirs {
		versions, err := filesIn(dir)
		ready = append(ready, im.note(dir, versions, err, now)...)
	}
	slices.Sort(ready)
	return ready
}

// note takes note of one folder's files, and returns those to import.
func (im *importer) note(dir string, versions map[string]string, err error, now time.Time) (ready []string) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.complain(dir, err)
	if err != nil {
		return nil // what it holds is not known: nothing changes
	}
	maps.DeleteFunc(im.files, func(path string, _ *importFile) bool {
		return filepath.Dir(path) == dir && versions[path] == ""
	})
	for path, version := range versions {
		f := im.files[path]
		if f == nil || f.version != version {
			f = &importFile{version: version, since: now}
			im.files[path] = f
		}
		switch {
		case im.s.imported(path, version):
			f.state, f.err = ImportImported, nil
		case f.state == ImportFailed && (f.again.IsZero() || now.Before(f.again)):
		default:
			f.state = ImportWaiting
			if now.Sub(f.since) >= importSettle {
				ready = append(ready, path)
			}
		}
	}
	return ready
}

// complain logs what is wrong with a folder, once. mu is held.
func (im *importer) complain(dir string, err error) {
	if err == nil {
		delete(im.unreadable, dir)
		return
	}
	if im.unreadable[dir] != err.Error() {
		im.s.log.Error("watch a folder for images", "folder", dir, "error", err)
	}
	im.unreadable[dir] = err.Error()
}

// filesIn returns the versions of a folder's files by their paths. Names that begin with a
// dot are those of files that are still being written.
func filesIn(dir string) (map[string]string, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("%s can be written by everybody, who could replace any image: %w", dir, errdefs.ErrPermissionDenied)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		switch st, err := e.Info(); {
		case err == nil:
			versions[filepath.Join(dir, e.Name())] = fileVersion(st)
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		}
	}
	return versions, nil
}

func fileVersion(st os.FileInfo) string {
	var inode uint64
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		inode = sys.Ino
	}
	return fmt.Sprintf("%d bytes, inode %d, of %s", st.Size(), inode, st.ModTime().UTC().Format(time.RFC3339Nano))
}

// imported tells whether all images of a version of a file are there.
func (s *Service) imported(path, version string) bool {
	found := 0
	for _, img := range s.store.Images() {
		for _, i := range img.Imports {
			if i.Path == path && i.Version == version {
				if found++; found == i.Images {
					return true
				}
			}
		}
	}
	return false
}

// load imports one file.
func (im *importer) load(ctx context.Context, path string) (err error) {
	im.mu.Lock()
	version := im.files[path].version
	im.mu.Unlock()
	ctx, op := im.s.opts.Operations.Begin(ctx, "ImportImages", operation.Subject{Image: path}, operation.Options{})
	defer func() { op.End(err) }()
	// No symbolic links, and no wait for the other end of a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("%s is a symbolic link: %w", path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("%s is no regular file: %w", path, errdefs.ErrInvalidArgument))
	}
	_, err = im.s.Load(ctx, &steadyFile{f, version}, LoadOptions{from: &store.Import{Path: path, Version: version}})
	return err
}

// errChanged tells that a file was written to while it was read.
var errChanged = fmt.Errorf("the file has changed while it was read: %w", errdefs.ErrUnavailable)

// steadyFile is a file that must be the same at its end.
type steadyFile struct {
	f       *os.File
	version string
}

func (s *steadyFile) Read(p []byte) (int, error) {
	n, err := s.f.Read(p)
	if errors.Is(err, io.EOF) {
		if st, serr := s.f.Stat(); serr != nil || fileVersion(st) != s.version {
			return n, errors.Join(errChanged, serr)
		}
	}
	return n, err
}

// settle takes note of how an import went.
func (im *importer) settle(path string, err error, now time.Time) {
	im.mu.Lock()
	defer im.mu.Unlock()
	f := im.files[path]
	if err == nil {
		f.state, f.err = ImportImported, nil
		im.s.log.Info("imported images", "file", path)
		return
	}
	f.state, f.err, f.again = ImportFailed, err, time.Time{}
	if mayPass(err) {
		f.again = now.Add(min(importBackoff<<min(f.tries, 10), importMaxBackoff))
		f.tries++
	}
	im.s.log.Error("import images", "file", path, "again", !f.again.IsZero(), "error", err)
}

// mayPass tells failures that may be none next time from those of the file itself.
func mayPass(err error) bool {
	is := func(kinds ...error) bool {
		return slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
	}
	var system syscall.Errno
	return !is(errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrDataLoss) &&
		(is(errdefs.ErrResourceExhausted, errdefs.ErrUnavailable, errdefs.ErrPermissionDenied) || errors.As(err, &system))
}

// unpin takes the files off the images' records that hold them no more.
func (im *importer) unpin() {
	for _, img := range im.s.store.Images() {
		if !slices.ContainsFunc(img.Imports, im.isOver) {
			continue
		}
		if err := im.s.store.DropImports(img.ID, im.isOver); err != nil {
			im.s.log.Error("unpin an image", "image", img.ID, "error", err)
			continue
		}
		im.s.markDirty()
		im.s.log.Info("a file that held the image is gone", "image", img.ID, "names", img.Refs())
	}
}

// isOver tells whether a file does not hold an image any more. One whose new content could
// not be imported counts as before.
func (im *importer) isOver(i store.Import) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	dir := filepath.Dir(i.Path)
	if !slices.Contains(im.dirs, dir) {
		return true
	}
	if im.unreadable[dir] != "" {
		return false
	}
	f := im.files[i.Path]
	return f == nil || f.version != i.Version && f.state == ImportImported
}
