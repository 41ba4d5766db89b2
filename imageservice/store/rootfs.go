package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"time"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	rootfsFile = "rootfs.json"
	rootfsKind = "rootfs"
	upperDir   = "upper"
	workDir    = "work"
)

// containerID is what may name a directory of ours.
var containerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// Rootfs is the record of a container's root file system. It is written before
// anything is made or mounted.
type Rootfs struct {
	ContainerID string          `json:"containerID"`
	Image       digest.Digest   `json:"image"`
	Layers      []digest.Digest `json:"layers"`
	Mountpoint  string          `json:"mountpoint"`
	BootID      string          `json:"bootID"`
}

// RootfsUsage is what a writable layer took when it was last measured.
type RootfsUsage struct {
	tree.Usage
	At   time.Time     // zero: not measured yet
	Took time.Duration // the measurement
	// Whole tells that project quota has counted all of the container's directory,
	// with its record and overlayfs's own.
	Whole bool
}

// Upper is the directory of a container's writable layer.
func (s *Store) Upper(id string) string { return s.path(rootfsDir, id, upperDir) }

// Work is overlayfs's own directory beside it.
func (s *Store) Work(id string) string { return s.path(rootfsDir, id, workDir) }

func (s *Store) loadRootfs() error {
	names, err := s.entries(rootfsDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.dropTemporary(filepath.Join(rootfsDir, name)); err != nil {
			return err
		}
		rec := Rootfs{ContainerID: name}
		err := readRecord(s.path(rootfsDir, name, rootfsFile), rootfsKind, &rec)
		if err != nil || rec.ContainerID != name {
			// After a power loss; the container is gone, and only the removal of what
			// it wrote is left to ask for.
			s.log.Warn("the record of a root file system is damaged", "container", name, "error", err)
			rec = Rootfs{ContainerID: name}
		}
		entry := &rootfsEntry{rec: rec, project: s.projectOf(name)}
		s.rootfs[name] = entry
		for _, id := range rec.Layers {
			if e, ok := s.layers[id]; ok {
				e.refs++
				entry.held = append(entry.held, id)
			}
		}
	}
	return nil
}

// CreateRootfs records a root file system of the image with the given ID, whose
// layers it keeps from now on. One that is there already is returned as it is,
// with created false.
func (s *Store) CreateRootfs(id string, image digest.Digest, mountpoint string) (rec Rootfs, created bool, err error) {
	if !containerID.MatchString(id) {
		return Rootfs{}, false, fmt.Errorf("container ID %q: %w", id, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	if e, ok := s.rootfs[id]; ok {
		s.mu.Unlock()
		return e.rec, false, nil
	}
	img, ok := s.images[image]
	if !ok {
		s.mu.Unlock()
		return Rootfs{}, false, fmt.Errorf("image %s: %w", image, errdefs.ErrNotFound)
	}
	rec = Rootfs{ContainerID: id, Image: image, Layers: img.Layers, Mountpoint: mountpoint, BootID: s.bootID}
	entry := &rootfsEntry{rec: rec, held: rec.Layers}
	s.rootfs[id] = entry
	for _, l := range rec.Layers {
		s.layers[l].refs++
	}
	s.mu.Unlock()
	if err := s.beginRootfs(entry); err != nil {
		return Rootfs{}, false, errors.Join(fmt.Errorf("record root file system of %s: %w", id, named(err)), s.RemoveRootfs(id))
	}
	return rec, true, nil
}

// beginRootfs makes the container's directory, with a project before anything is in it.
func (s *Store) beginRootfs(e *rootfsEntry) error {
	if err := os.Mkdir(s.path(rootfsDir, e.rec.ContainerID), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	project, err := s.assignProject(e.rec.ContainerID)
	if err != nil {
		return err
	}
	s.mu.Lock()
	e.project = project
	s.mu.Unlock()
	return s.writeRootfs(e.rec)
}

func (s *Store) writeRootfs(rec Rootfs) error {
	if err := failpoint.Hit("store/rootfs/record"); err != nil {
		return err
	}
	return writeRecord(s.path(rootfsDir, rec.ContainerID, rootfsFile), rootfsKind, rec)
}

// MoveRootfs records a new mountpoint.
func (s *Store) MoveRootfs(id, mountpoint string) error {
	rec, err := s.Rootfs(id)
	if err != nil {
		return err
	}
	rec.Mountpoint = mountpoint
	if err := s.writeRootfs(rec); err != nil {
		return fmt.Errorf("record root file system of %s: %w", id, named(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.rootfs[id]; ok {
		e.rec = rec
	}
	return nil
}

// Rootfs returns the record of a container's root file system, or
// errdefs.ErrNotFound.
func (s *Store) Rootfs(id string) (Rootfs, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.rootfs[id]
	if !ok {
		return Rootfs{}, fmt.Errorf("root file system of container %q: %w", id, errdefs.ErrNotFound)
	}
	return e.rec, nil
}

// RootfsIDs returns the containers that have a root file system, in order.
func (s *Store) RootfsIDs() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ids := make([]string, 0, len(s.rootfs))
	for id := range s.rootfs {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids
}

// RemoveRootfs removes what the container wrote and then the record, and the
// layers that nothing else needs. It must not be mounted any more. It is
// idempotent.
func (s *Store) RemoveRootfs(id string) error {
	if _, err := s.Rootfs(id); err != nil {
		return nil
	}
	dir, err := s.takeAway(s.path(rootfsDir, id))
	if err != nil {
		return fmt.Errorf("remove root file system of %s: %w", id, err)
	}
	failpoint.Pass("store/rootfs/removed")
	s.commit.Lock()
	s.mu.Lock()
	e, ok := s.rootfs[id]
	var layers []digest.Digest
	var project uint32
	if ok {
		delete(s.rootfs, id)
		layers, project = s.unref(e.held), e.project
	}
	s.mu.Unlock()
	defer s.releaseProject(project)
	return s.dispose(layers, dir)
}

// Trusted tells whether what the container wrote can be mounted again: a
// volatile overlay that was up when the machine went down cannot.
func (s *Store) Trusted(rec Rootfs) bool { return rec.BootID == s.bootID }

// RootfsUsage returns what the last measurement found, or errdefs.ErrNotFound
// when the container has no root file system.
func (s *Store) RootfsUsage(id string) (RootfsUsage, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.rootfs[id]
	if !ok {
		return RootfsUsage{}, fmt.Errorf("root file system of container %q: %w", id, errdefs.ErrNotFound)
	}
	return e.usage, nil
}

// TotalRootfsUsage adds up the last measurements.
func (s *Store) TotalRootfsUsage() tree.Usage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var u tree.Usage
	for _, e := range s.rootfs {
		u.Bytes += e.usage.Bytes
		u.Inodes += e.usage.Inodes
	}
	return u
}

// MeasureRootfs finds out what a container's writable layer and its volumes take: from project
// quota, else it walks them. The container may run, and may be removed meanwhile.
func (s *Store) MeasureRootfs(ctx context.Context, id string) error {
	start := time.Now()
	s.mu.RLock()
	e, ok := s.rootfs[id]
	if !ok {
		s.mu.RUnlock()
		return nil
	}
	project := e.project
	s.mu.RUnlock()
	u, err := s.measure(ctx, id, project)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("measure root file system of %s: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.usage = RootfsUsage{Usage: u, At: time.Now(), Took: time.Since(start), Whole: project != 0}
	return nil
}

func (s *Store) measure(ctx context.Context, id string, project uint32) (tree.Usage, error) {
	if project != 0 {
		return s.projects.Usage(project)
	}
	u, err := tree.Measure(ctx, s.Upper(id))
	if err == nil {
		more, verr := tree.Measure(ctx, s.Volumes(id))
		err = measureVolumes(&u, more, verr)
	}
	return u, err
}
