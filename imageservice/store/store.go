// Package store keeps the records and trees of images, layers and root file
// systems on disk, counts who needs which layer, and removes what nobody does.
//
// Below its root:
//
//	images/<config digest>/    record.json, config.json, manifest.json, synced
//	layers/<DiffID>/           layer.json, diff/, inventory, synced
//	superseded/<n>/            layer/, users: damaged layers that running containers use
//	rootfs/<container ID>/     rootfs.json, upper/, work/, volumes/
//	volumes/<image ID>/        volume.json, top/, users/: images that are mounted as volumes
//	partial/                   beginnings of blobs, for pulls to go on with
//	blobs/<algorithm>/<hex>    what images were made of, as it came (package content)
//	ingest/                    what is being made, and what is being removed
//	damaged/                   records that were not whole
//	empty/                     the layer of images that have none
//
// rootfs/ may lie in a directory on another file system, beside an ingest/ of its own.
//
// A directory comes into images/ and layers/ by a rename and leaves it by one, so
// that a kill at any instruction leaves whole ones there and the rest in ingest/,
// which is emptied at the next start. Nothing is synced on the way of a pull:
// layers carry the boot ID until Sync has brought them to the disk, and one that
// was not synced in an earlier boot is not trusted.
package store

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/berth-cri/berth/imageservice/content"
	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/berth-cri/berth/imageservice/projectquota"
	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	imagesDir  = "images"
	layersDir  = "layers"
	rootfsDir  = "rootfs"
	ingestDir  = "ingest"
	damagedDir = "damaged"
	emptyDir   = "empty"
	blobsDir   = "blobs"
)

// bootIDFile identifies the running kernel.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// Store is safe for concurrent use. Only one Store may have a directory open;
// the caller sees to that.
type Store struct {
	root string // of all but rootfs/
	// writable is where rootfs/ is, with an ingest/ of its own; the same as root unless
	// they are on different file systems.
	writable string
	bootID   string
	log      *slog.Logger

	// limit is the most bytes of a writable layer, 0 for no limit; projects counts
	// them, and is nil where they are walked.
	limit    uint64
	projects *projectquota.FS

	// commit serialises changes of what is on disk below images/ and layers/, so
	// that readers need not wait for a disk.
	commit sync.Mutex

	// trees is held while a layer's files are brought to the disk, and while one
	// layer takes the place of another: before commit.
	trees sync.Mutex

	mu     sync.RWMutex // guards what follows; never held during I/O
	images map[digest.Digest]*Image
	names  map[string]digest.Digest
	seq    uint64
	layers map[digest.Digest]*layerEntry
	rootfs map[string]*rootfsEntry
	// unsyncedImages have records that are only in memory yet.
	unsyncedImages map[digest.Digest]bool
	// partials are the partial blobs in use.
	partials map[digest.Digest]bool
	// volumes are the images that containers use as volumes.
	volumes map[digest.Digest]*volumeEntry
	// blobs counts who refers to a blob, which need not be there: images and leases.
	blobs map[digest.Digest]int
	// superseded are layers that were replaced, by directory.
	superseded map[string]*supersededLayer
	// stuck is trash that could not be removed.
	stuck map[string]bool

	content *content.Store
}

type layerEntry struct {
	rec    Layer
	refs   int // images, root file systems, volumes and leases
	synced bool
	// unsyncable is set when the kernel told of a lost write.
	unsyncable bool
	// missing is set when the layer was found to be damaged beyond use, or not to be
	// there. Who refers to it still does, and has it when it comes back.
	missing bool
}

type rootfsEntry struct {
	rec     Rootfs
	held    []digest.Digest // its layers, without those lost before the store was opened
	project uint32          // 0 if it is walked
	usage   RootfsUsage
}

// Open reads the store, which it makes if need be. It sets aside records
// that are damaged, forgets layers that a power loss may have hurt, and removes
// what is not referenced from sight; Sweep frees the space.
func Open(places Places, quota Quota, log *slog.Logger) (*Store, error) {
	id, err := os.ReadFile(bootIDFile)
	if err != nil {
		return nil, fmt.Errorf("read the boot ID: %w", err)
	}
	return openPlaces(places, quota, strings.TrimSpace(string(id)), log)
}

func open(root, bootID string, log *slog.Logger) (*Store, error) {
	return openPlaces(Places{Root: root}, Quota{}, bootID, log)
}

func openPlaces(places Places, quota Quota, bootID string, log *slog.Logger) (*Store, error) {
	places = places.withDefaults()
	if err := places.settle(); err != nil {
		return nil, fmt.Errorf("open image store: %w", named(err))
	}
	s := &Store{
		root: places.Images, writable: places.Writable, bootID: bootID, log: log,
		images:   map[digest.Digest]*Image{},
		names:    map[string]digest.Digest{},
		layers:   map[digest.Digest]*layerEntry{},
		rootfs:   map[string]*rootfsEntry{},
		partials: map[digest.Digest]bool{},

		unsyncedImages: map[digest.Digest]bool{},

		volumes:    map[digest.Digest]*volumeEntry{},
		superseded: map[string]*supersededLayer{},
		stuck:      map[string]bool{},
		blobs:      map[digest.Digest]int{},
	}
	if err := s.makeDirs(); err != nil {
		return nil, fmt.Errorf("open image store: %w", named(err))
	}
	if err := s.openProjects(quota); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	failpoint.Pass("store/open")
	var err error
	if s.content, err = content.Open(s.path(blobsDir), s.path(ingestDir), bootID, log); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	for _, load := range []func() error{s.loadLayers, s.loadRootfs, s.loadVolumes, s.loadSuperseded, s.loadImages, s.dropUnreferenced, s.dropBlobs, s.findLeftovers} {
		if err := load(); err != nil {
			return nil, fmt.Errorf("open image store: %w", named(err))
		}
	}
	return s, nil
}

// makeDirs makes the directories closed to all but root: layers hold
// set-user-ID programs that nobody on the host may run.
func (s *Store) makeDirs() error {
	for _, dir := range []string{s.root, s.writable} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(s.writable, ingestDir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, dir := range []string{imagesDir, layersDir, rootfsDir, volumesDir, supersededDir, ingestDir, partialDir, damagedDir, emptyDir} {
		path := s.path(dir)
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		mode := os.FileMode(0o700)
		if dir == emptyDir {
			mode = 0o755 // seen in containers as their root
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	return nil
}

// Scratch is a path that its user makes and removes; what is left there by one that
// was cut off goes at the next start.
func (s *Store) Scratch(name string) string { return s.path(ingestDir, name) }

func (s *Store) path(elem ...string) string {
	root := s.root
	if elem[0] == rootfsDir {
		root = s.writable
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// entries lists a directory without the files that were never renamed into
// place, which it removes.
func (s *Store) entries(dir string) ([]string, error) {
	list, err := os.ReadDir(s.path(dir))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		if isTemp(e.Name()) {
			if err := s.discard(s.path(dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// discard moves path to ingest/, from where Sweep removes it, or removes it at once if
// the disk is full: that must not keep the store from opening.
func (s *Store) discard(path string) error {
	_, err := s.takeAway(path)
	return err
}

// dropTemporary removes the files of a directory that were never renamed into place. A
// directory that is not there has none.
func (s *Store) dropTemporary(dir string) error {
	if _, err := s.entries(dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	return nil
}

// toTrash moves path into a new directory of ingest/, which it returns: from then
// on nothing of it is in sight, and a kill leaves only what Sweep removes.
func (s *Store) toTrash(path string) (string, error) {
	ingest := s.path(ingestDir)
	if strings.HasPrefix(path, s.path(rootfsDir)+"/") {
		ingest = filepath.Join(s.writable, ingestDir)
	}
	trash, err := os.MkdirTemp(ingest, "trash-")
	if err != nil {
		return "", err
	}
	err = failpoint.Hit("store/trash/move")
	if err == nil {
		err = os.Rename(path, filepath.Join(trash, "it"))
	}
	if err != nil {
		os.Remove(trash)
		return "", err
	}
	failpoint.Pass("store/trash/moved")
	return trash, nil
}

// takeAway moves path to the trash and returns what is left to remove. A full disk
// can refuse the move: then path is removed where it is, since that makes room.
func (s *Store) takeAway(path string) (string, error) {
	trash, err := s.toTrash(path)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return trash, nil
	}
	return "", tree.RemovePath(filepath.Dir(path), filepath.Base(path))
}

// setAside moves a damaged record where an operator can look at it.
func (s *Store) setAside(path string, why error) error {
	target := s.path(damagedDir, filepath.Base(filepath.Dir(path))+"-"+filepath.Base(path))
	s.log.Warn("set a damaged record aside", "path", path, "to", target, "error", why)
	if err := tree.RemovePath(filepath.Dir(target), filepath.Base(target)); err != nil {
		return err
	}
	return os.Rename(path, target)
}

// Sweep frees the space of what an earlier process left in ingest/, and of what this
// one could not remove. What this one makes there is not touched: pulls may run
// meanwhile.
func (s *Store) Sweep() error {
	s.mu.RLock()
	paths := slices.Sorted(maps.Keys(s.stuck))
	s.mu.RUnlock()
	var failed []error
	for _, path := range paths {
		failpoint.Pass("store/sweep")
		if err := tree.RemovePath(filepath.Dir(path), filepath.Base(path)); err != nil {
			failed = append(failed, fmt.Errorf("remove leftovers: %w", err))
			continue
		}
		s.mu.Lock()
		delete(s.stuck, path)
		s.mu.Unlock()
	}
	return errors.Join(failed...)
}

// noteStuck leaves trash to a later Sweep.
func (s *Store) noteStuck(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck[path] = true
}

func (s *Store) findLeftovers() error {
	for _, root := range s.Roots() {
		list, err := os.ReadDir(filepath.Join(root, ingestDir))
		if err != nil {
			return err
		}
		for _, e := range list {
			s.stuck[filepath.Join(root, ingestDir, e.Name())] = true
		}
	}
	return nil
}

// named gives errors of the disk their kind.
func named(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}

// EmptyLayer is the directory that stands for the layers of an image without
// any.
func (s *Store) EmptyLayer() string { return s.path(emptyDir) }

// Root is the directory of images and layers.
func (s *Store) Root() string { return s.root }

// WritableRoot is the directory of the containers' writable layers.
func (s *Store) WritableRoot() string { return s.writable }
