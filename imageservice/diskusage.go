package imageservice

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/berth-cri/berth/operation"
)

// The kinds of what takes room on the disk.
const (
	DiskImage     = "image"     // record, configuration, manifest
	DiskLayer     = "layer"     // unpacked
	DiskContainer = "container" // writable layer, and volumes of its own
	DiskVolume    = "volume"    // of an image that is mounted as one
	DiskBlob      = "blob"      // as it came from the registry
	DiskPartial   = "partial"   // the beginning of a blob
	DiskIngest    = "ingest"    // being unpacked, or being removed
	DiskDamaged   = "damaged"   // replaced layers that containers use, records set aside
	DiskRecord    = "record"    // of pods, networks and the store itself
	DiskOrphan    = "orphan"    // what nobody knows
)

// DiskItem is one thing that takes room.
type DiskItem struct {
	Kind string
	// ID is a digest, the ID of a container, or a path below the root.
	ID string
	// Images are the names of the images that a layer or blob belongs to.
	Images []string
	// Shared tells of a layer that several images have.
	Shared bool
	Bytes  uint64 // allocated
	Inodes uint64
	// Measured is when a container's writable layer was looked at.
	Measured time.Time
}

// DiskUsage explains what is below the service's directories.
type DiskUsage struct {
	At    time.Time
	Items []DiskItem
}

const (
	// surveyLife is how long a survey is good for the next caller.
	surveyLife = 3 * time.Second
	// slowMeasurement is how long the measurement of a writable layer may have taken
	// for a survey to repeat it; of others it takes the last one.
	slowMeasurement = time.Second
)

// survey is the last one; its lock is held while one is made.
type survey struct {
	mu   sync.Mutex
	last DiskUsage
}

// DiskUsage finds out what takes how much room. foreign are the names in the root
// directory that belong to others; what nobody knows is an orphan. Layers are not
// walked: they were counted when they were unpacked. Callers that come together share
// one survey.
func (s *Service) DiskUsage(ctx context.Context, foreign map[string]bool) (_ DiskUsage, err error) {
	s.survey.mu.Lock()
	defer s.survey.mu.Unlock()
	if time.Since(s.survey.last.At) < surveyLife {
		return s.survey.last, nil
	}
	ctx, end := operation.Stage(ctx, "survey the disk")
	defer func() { end(err) }()
	v := surveyor{ctx: ctx, s: s}
	for _, part := range []func() error{v.images, v.layers, v.containers, v.blobs} {
		if err := part(); err != nil {
			return DiskUsage{}, err
		}
	}
	if err := v.rest(foreign); err != nil {
		return DiskUsage{}, err
	}
	sort.SliceStable(v.items, func(i, j int) bool { return v.items[i].Bytes > v.items[j].Bytes })
	s.survey.last = DiskUsage{At: time.Now(), Items: v.items}
	return s.survey.last, nil
}

// surveyor makes one survey.
type surveyor struct {
	ctx   context.Context
	s     *Service
	items []DiskItem
}

func (v *surveyor) add(item DiskItem) { v.items = append(v.items, item) }

// measured adds the walk of a directory that is small.
func (v *surveyor) measured(item DiskItem, path string) error {
	u, err := v.measure(path)
	if err != nil {
		return err
	}
	item.Bytes, item.Inodes = u.Bytes, u.Inodes
	if u.Inodes > 0 {
		v.add(item)
	}
	return nil
}

// measure counts a file or a tree; what is gone counts nothing.
func (v *surveyor) measure(path string) (tree.Usage, error) {
	u, err := tree.Measure(v.ctx, path)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return own(path), nil
	}
	if errors.Is(err, os.ErrNotExist) {
		return tree.Usage{}, nil
	}
	return u, err
}

// own is what a file or a directory takes itself.
func own(path string) tree.Usage {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return tree.Usage{}
	}
	return tree.Usage{Bytes: uint64(st.Blocks) * 512, Inodes: 1}
}

// around is what a directory takes itself, with the files in it but not the
// directories.
func around(dir string) tree.Usage {
	u := own(dir)
	list, err := os.ReadDir(dir)
	if err != nil {
		return u
	}
	for _, e := range list {
		if !e.IsDir() {
			file := own(filepath.Join(dir, e.Name()))
			u.Bytes += file.Bytes
			u.Inodes += file.Inodes
		}
	}
	return u
}

func (v *surveyor) images() error {
	for _, img := range v.s.store.Images() {
		item := DiskItem{Kind: DiskImage, ID: img.ID.String(), Images: img.Refs()}
		if err := v.measured(item, v.s.store.ImageDir(img.ID)); err != nil {
			return err
		}
	}
	return nil
}

func (v *surveyor) layers() error {
	for _, l := range v.s.store.Layers() {
		record := around(filepath.Dir(v.s.store.Diff(l.DiffID)))
		images := v.s.imagesOf(l.DiffID)
		v.add(DiskItem{
			Kind: DiskLayer, ID: l.DiffID.String(), Images: images, Shared: len(images) > 1,
			Bytes: l.Bytes + record.Bytes, Inodes: l.Inodes + record.Inodes,
		})
	}
	return nil
}

func (v *surveyor) containers() error {
	for _, id := range v.s.store.RootfsIDs() {
		u, err := v.s.store.RootfsUsage(id)
		if err == nil && (u.At.IsZero() || u.Took < slowMeasurement) {
			if err := v.s.store.MeasureRootfs(v.ctx, id); err != nil {
				return err
			}
			u, err = v.s.store.RootfsUsage(id)
		}
		if err != nil {
			continue // removed meanwhile
		}
		item := DiskItem{Kind: DiskContainer, ID: id, Measured: u.At, Bytes: u.Bytes, Inodes: u.Inodes}
		if !u.Whole {
			record := around(filepath.Dir(v.s.store.Upper(id)))
			work, err := v.measure(v.s.store.Work(id))
			if err != nil {
				return err
			}
			item.Bytes += record.Bytes + work.Bytes
			item.Inodes += record.Inodes + work.Inodes
		}
		v.add(item)
	}
	return nil
}

func (v *surveyor) blobs() error {
	list, err := v.s.store.Content().List()
	if err != nil {
		return err
	}
	names := map[string][]string{}
	for _, img := range v.s.store.Images() {
		for _, d := range img.Blobs() {
			names[d.String()] = append(names[d.String()], imageName(img))
		}
	}
	for _, b := range list {
		images := names[b.Digest.String()]
		v.add(DiskItem{Kind: DiskBlob, ID: b.Digest.String(), Images: images, Shared: len(images) > 1, Bytes: uint64(b.Disk), Inodes: 1})
	}
	return nil
}

// rest goes through the directories of the store, and what lies beside them.
func (v *surveyor) rest(foreign map[string]bool) error {
	for _, dir := range v.s.store.Dirs() {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		if err := v.directory(dir.Kind, dir.Path, dir.Known); err != nil {
			return err
		}
	}
	for _, root := range v.s.Roots() {
		if err := v.root(root, foreign); err != nil {
			return err
		}
	}
	return nil
}

// directory adds what is in a directory of the store, but for what is known by name
// and was counted, and the directory itself.
func (v *surveyor) directory(kind, dir string, known func(string) bool) error {
	u := own(dir)
	v.add(DiskItem{Kind: DiskRecord, ID: dir, Bytes: u.Bytes, Inodes: u.Inodes})
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if known != nil && known(e.Name()) {
			continue
		}
		if err := v.measured(DiskItem{Kind: kind, ID: filepath.Join(dir, e.Name())}, filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// root adds what is in a root directory beside the store's own directories.
func (v *surveyor) root(root string, foreign map[string]bool) error {
	var failed error
	err := v.directory(DiskOrphan, root, func(name string) bool {
		path := filepath.Join(root, name)
		if v.s.store.Owns(path) {
			return true
		}
		if !foreign[name] {
			return false
		}
		failed = errors.Join(failed, v.measured(DiskItem{Kind: DiskRecord, ID: path}, path))
		return true
	})
	return errors.Join(err, failed)
}

// Roots are the directories below which the service keeps what it has.
func (s *Service) Roots() []string {
	roots := append([]string{s.opts.Root}, s.store.Roots()...)
	slices.Sort(roots)
	return slices.Compact(roots)
}
