package store

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"

	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	volumesDir = "volumes"
	volumeFile = "volume.json"
	volumeKind = "volume"
	topDir     = "top"
	usersDir   = "users"
)

// Volume is the record of an image that containers mount beside their own root
// file system. It is written before anything is mounted.
type Volume struct {
	Image  digest.Digest   `json:"image"`
	Layers []digest.Digest `json:"layers"`
	BootID string          `json:"bootID"`
}

// volumeEntry is a volume and who uses it.
type volumeEntry struct {
	rec Volume
	// users maps containers to the variant of the mount that they use.
	users map[string]string
}

// VolumeTop is the directory for the attributes that the volume's directories
// show, whatever their layers imply.
func (s *Store) VolumeTop(image digest.Digest) string {
	return s.path(volumesDir, image.Encoded(), topDir)
}

// loadVolumes takes up the volumes of this boot. Mounts do not outlive their
// kernel, so of an earlier one nothing is left to use.
func (s *Store) loadVolumes() error {
	names, err := s.entries(volumesDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		entry, err := s.readVolume(name)
		if err != nil {
			s.log.Debug("drop an image volume", "volume", name, "reason", err)
			if err := s.discard(s.path(volumesDir, name)); err != nil {
				return err
			}
			continue
		}
		s.volumes[entry.rec.Image] = entry
		for _, id := range entry.rec.Layers {
			s.layers[id].refs++
		}
	}
	return nil
}

func (s *Store) readVolume(name string) (*volumeEntry, error) {
	entry := &volumeEntry{users: map[string]string{}}
	if err := readRecord(s.path(volumesDir, name, volumeFile), volumeKind, &entry.rec); err != nil {
		return nil, err
	}
	if entry.rec.Image.Validate() != nil || entry.rec.Image.Encoded() != name {
		return nil, fmt.Errorf("%w: record is that of image %q", errDamaged, entry.rec.Image)
	}
	if entry.rec.BootID != s.bootID {
		return nil, errors.New("it is of an earlier boot")
	}
	if missing := s.missing(entry.rec.Layers); missing != "" {
		return nil, fmt.Errorf("layer %s is not there any more", missing)
	}
	users, err := s.entries(volumesDir + "/" + name + "/" + usersDir)
	if err != nil {
		return nil, err
	}
	for _, user := range users {
		variant, err := os.ReadFile(s.path(volumesDir, name, usersDir, user))
		if err != nil {
			return nil, err
		}
		entry.users[user] = string(variant)
	}
	if len(entry.users) == 0 {
		return nil, errors.New("nobody uses it")
	}
	return entry, nil
}

// UseVolume records that a container uses a variant of the image as a volume. Its
// layers stay from now on until the last user has released it, whatever happens
// to the image. It is idempotent. Calls for one image must not overlap.
func (s *Store) UseVolume(image digest.Digest, container, variant string) (Volume, error) {
	if !containerID.MatchString(container) {
		return Volume{}, fmt.Errorf("container ID %q: %w", container, errdefs.ErrInvalidArgument)
	}
	entry, err := s.holdVolume(image)
	if err != nil {
		return Volume{}, err
	}
	err = s.writeVolumeUser(entry.rec, container, variant)
	s.mu.Lock()
	if err == nil {
		entry.users[container] = variant
	}
	unused := len(entry.users) == 0
	s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("record use of image %s as a volume: %w", image, named(err))
		if unused {
			err = errors.Join(err, s.dropVolume(image))
		}
		return Volume{}, err
	}
	return entry.rec, nil
}

// holdVolume returns the image's entry, a new one that holds the layers if there
// is none.
func (s *Store) holdVolume(image digest.Digest) (*volumeEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if entry, ok := s.volumes[image]; ok {
		return entry, nil
	}
	img, ok := s.images[image]
	if !ok {
		return nil, fmt.Errorf("image %s: %w", image, errdefs.ErrNotFound)
	}
	entry := &volumeEntry{rec: Volume{Image: image, Layers: img.Layers, BootID: s.bootID}, users: map[string]string{}}
	s.volumes[image] = entry
	for _, id := range img.Layers {
		s.layers[id].refs++
	}
	return entry, nil
}

// writeVolumeUser writes the volume's record if need be, then that of its user.
func (s *Store) writeVolumeUser(rec Volume, container, variant string) error {
	dir := s.path(volumesDir, rec.Image.Encoded())
	for _, d := range []string{dir, dir + "/" + usersDir} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if _, err := os.Lstat(dir + "/" + volumeFile); err != nil {
		if err := writeRecord(dir+"/"+volumeFile, volumeKind, rec); err != nil {
			return err
		}
	}
	return replaceFile(dir+"/"+usersDir+"/"+container, []byte(variant))
}

// VolumesOf returns the images that the container uses as volumes, in order.
func (s *Store) VolumesOf(container string) []digest.Digest {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var images []digest.Digest
	for image, entry := range s.volumes {
		if _, ok := entry.users[container]; ok {
			images = append(images, image)
		}
	}
	sort.Slice(images, func(i, j int) bool { return images[i] < images[j] })
	return images
}

// VolumeUsers returns the users of an image as a volume, each with the variant
// that it uses.
func (s *Store) VolumeUsers(image digest.Digest) map[string]string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	users := map[string]string{}
	if entry, ok := s.volumes[image]; ok {
		for user, variant := range entry.users {
			users[user] = variant
		}
	}
	return users
}

// ReleaseVolume ends a container's use; with the last user goes what was recorded,
// and the layers that nothing else needs. The variant that only this container
// used must not be mounted any more. It is idempotent. Calls for one image must
// not overlap.
func (s *Store) ReleaseVolume(image digest.Digest, container string) error {
	s.mu.RLock()
	entry, ok := s.volumes[image]
	s.mu.RUnlock()
	if !ok {
		return nil
	}
	err := os.Remove(s.path(volumesDir, image.Encoded(), usersDir, container))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("release image %s as a volume: %w", image, err)
	}
	s.mu.Lock()
	delete(entry.users, container)
	unused := len(entry.users) == 0
	s.mu.Unlock()
	if !unused {
		return nil
	}
	return s.dropVolume(image)
}

// dropVolume removes a volume that nobody uses.
func (s *Store) dropVolume(image digest.Digest) error {
	s.commit.Lock()
	dir, err := s.takeAway(s.path(volumesDir, image.Encoded()))
	if err != nil {
		s.commit.Unlock()
		return fmt.Errorf("remove the volume of image %s: %w", image, err)
	}
	s.mu.Lock()
	var layers []digest.Digest
	if entry, ok := s.volumes[image]; ok {
		delete(s.volumes, image)
		layers = s.unref(entry.rec.Layers)
	}
	s.mu.Unlock()
	return s.dispose(layers, dir)
}

// Volumes is the directory of the volumes that a container has for itself,
// beside its writable layer, and removed with it.
func (s *Store) Volumes(id string) string { return s.path(rootfsDir, id, volumesDir) }

// measureVolumes adds what a container's own volumes hold.
func measureVolumes(u *tree.Usage, more tree.Usage, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	u.Bytes += more.Bytes
	u.Inodes += more.Inodes
	return err
}

// VolumeContainers returns the containers that use images as volumes, in order.
func (s *Store) VolumeContainers() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []string
	for _, entry := range s.volumes {
		for user := range entry.users {
			all = append(all, user)
		}
	}
	sort.Strings(all)
	return slices.Compact(all)
}
