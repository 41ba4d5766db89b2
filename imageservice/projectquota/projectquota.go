// Package projectquota counts and limits what is below a directory with the project quota
// of XFS and ext4: the file system knows at any time, and nothing is walked.
package projectquota

import (
	"errors"
	"fmt"
	"sync"

	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// IDs are the project IDs to give away, Count of them from First on. Whoever else sets
// project quota on the file system leaves them alone: one that is in range is taken for
// one that was given away here.
type IDs struct{ First, Count uint32 }

func (r IDs) contain(id uint32) bool { return id >= r.First && id-r.First < r.Count }

// FS is a file system with project quota. It remembers nothing: which directory has which
// project, and which projects are in use, is asked of the file system, so that a kill
// at any instruction loses no ID and gives none away twice.
type FS struct {
	dir      string // somewhere on it
	ids      IDs
	enforced bool

	mu   sync.Mutex // held from the choice of an ID until it is in use; guards next
	next uint32     // offset of the ID to try first
}

// Open takes the file system of a directory in which others are going to be assigned. The
// error is errdefs.ErrNotImplemented, with what is missing, if it does not count
// by project, or if that directory has a project already: the directories in it could not be
// moved out of it then.
func Open(dir string, ids IDs) (*FS, error) {
	if ids.Count == 0 {
		return nil, fmt.Errorf("no project IDs are configured: %w", errdefs.ErrNotImplemented)
	}
	accounted, enforced, err := state(dir)
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return nil, fmt.Errorf("the file system of %s has no project quota, which XFS and ext4 have when mounted with prjquota, or the kernel is older than Linux 5.14: %w", dir, errdefs.ErrNotImplemented)
	case err != nil:
		return nil, fmt.Errorf("ask for the project quota of %s: %w", dir, err)
	case !accounted:
		return nil, fmt.Errorf("the file system of %s does not count by project; mount it with prjquota: %w", dir, errdefs.ErrNotImplemented)
	}
	attr, err := attributes(dir)
	if err != nil {
		return nil, err
	}
	if attr.xflags&xflagProjInherit != 0 {
		return nil, fmt.Errorf("%s belongs to project %d: %w", dir, attr.projid, errdefs.ErrNotImplemented)
	}
	f := &FS{dir: dir, ids: ids, enforced: enforced}
	// This takes CAP_SYS_ADMIN, in the node's user namespace.
	if _, err := f.Usage(ids.First); err != nil {
		return nil, err
	}
	return f, nil
}

// Enforced tells whether limits hold: ext4 counts without, unless mounted with prjquota.
func (f *FS) Enforced() bool { return f.enforced }

// Assign gives an empty directory a project of its own, which what is made in it will
// belong to, with a limit in bytes, 0 for none. errdefs.ErrResourceExhausted if all IDs
// are in use.
func (f *FS) Assign(dir string, limit uint64) (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range f.ids.Count {
		id := f.ids.First + f.next
		f.next = (f.next + 1) % f.ids.Count
		u, err := f.Usage(id)
		if err != nil {
			return 0, err
		}
		if u != (tree.Usage{}) {
			continue
		}
		if err := setLimit(f.dir, id, limit); err != nil {
			return 0, fmt.Errorf("limit project %d to %d bytes: %w", id, limit, err)
		}
		if err := setProject(dir, id); err != nil {
			return 0, fmt.Errorf("assign project %d: %w", id, err)
		}
		return id, nil
	}
	return 0, fmt.Errorf("all %d project IDs from %d on are in use: %w", f.ids.Count, f.ids.First, errdefs.ErrResourceExhausted)
}

// Of is the project that a directory was assigned, 0 if none was.
func (f *FS) Of(dir string) (uint32, error) {
	attr, err := attributes(dir)
	if err != nil || !f.ids.contain(attr.projid) {
		return 0, err
	}
	return attr.projid, nil
}

// Usage is what belongs to a project; one without files has none.
func (f *FS) Usage(id uint32) (tree.Usage, error) {
	u, err := usage(f.dir, id)
	if err != nil {
		return tree.Usage{}, fmt.Errorf("usage of project %d: %w", id, err)
	}
	return u, nil
}

// Release takes the limit off a project whose directory was removed. It is idempotent.
func (f *FS) Release(id uint32) error {
	if err := setLimit(f.dir, id, 0); err != nil {
		return fmt.Errorf("take the limit off project %d: %w", id, err)
	}
	return nil
}
