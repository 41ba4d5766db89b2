package imageservice

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/berth-cri/berth/imageservice/overlay"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mountsDir is the directory below Options.State where images are mounted as
// volumes, each at <image ID>/<variant>.
const mountsDir = "mounted-images"

// plainVariant is the variant of a mount without anything special.
const plainVariant = "plain"

// volumeMount says how an image is to be mounted as a volume. Containers that say
// the same share one mount.
type volumeMount struct {
	// label is the SELinux label that all files show; "" for none.
	label string
	// userns is the path of the user namespace to whose IDs the files belong, and
	// usernsID tells it from others as long as a mount holds it; "" for none.
	userns, usernsID string
}

// variant names the mounts that can be shared.
func (m volumeMount) variant() string {
	if m.label == "" && m.userns == "" {
		return plainVariant
	}
	sum := sha256.Sum256([]byte(m.label + "\x00" + m.usernsID))
	return hex.EncodeToString(sum[:16])
}

// newVolumeMount finds out which user namespace is meant.
func newVolumeMount(label, userns string) (volumeMount, error) {
	m := volumeMount{label: label, userns: userns}
	if userns == "" {
		return m, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(userns, &st); err != nil {
		return m, &os.PathError{Op: "stat", Path: userns, Err: err}
	}
	m.usernsID = strconv.FormatUint(st.Ino, 10)
	return m, nil
}

// MountImage mounts an image, or an artifact, read-only for a container and returns
// where; label is the SELinux label that all its files show, userns the path of a
// user namespace to whose IDs they belong, "" for none. The
// mount and the image's layers stay until RemoveRootfs of the container, whatever
// happens to the image. It is idempotent. An image that is not there is
// errdefs.ErrNotFound: nothing is pulled.
func (s *Service) MountImage(ctx context.Context, containerID, image, label, userns string) (string, error) {
	img, err := s.lookup(image)
	if err != nil {
		return "", err
	}
	m, err := newVolumeMount(label, userns)
	if err != nil {
		return "", fmt.Errorf("mount image %s: %w", img.ID, err)
	}
	defer s.volumes.lock(img.ID.String())()
	target := s.volumeTarget(img.ID, m.variant())
	rec, err := s.store.UseVolume(img.ID, containerID, m.variant())
	if err != nil {
		return "", fmt.Errorf("mount image %s: %w", img.ID, err)
	}
	if err = s.restoreLayers(ctx, rec.Layers); err == nil {
		err = s.mountVolume(rec, m, target)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("mount image %s: %w", img.ID, err), s.releaseVolume(img.ID, containerID))
	}
	return target, nil
}

func (s *Service) volumeTarget(image digest.Digest, variant string) string {
	return filepath.Join(s.opts.State, mountsDir, image.Encoded(), variant)
}

// mountVolume mounts the volume at target unless it is mounted there.
func (s *Service) mountVolume(rec store.Volume, m volumeMount, target string) error {
	if mounted, err := overlay.Mounted(target); err != nil || mounted {
		return err
	}
	layers, err := s.visible(rec.Layers)
	if err != nil {
		return err
	}
	top, err := s.makeTop(rec.Image, layers)
	if err != nil {
		return fmt.Errorf("make directories: %w", diskError(err))
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return fmt.Errorf("make mountpoint: %w", diskError(err))
	}
	lower := append([]string{top}, s.lowerDirs(layers)...)
	return overlay.Mount{Lower: lower, Label: m.label, UserNS: m.userns, Target: target}.Do()
}

// makeTop makes the layer above all others that gives directories the attributes
// that the image means them to have, as a container's writable layer does. It
// comes into being whole.
func (s *Service) makeTop(image digest.Digest, layers []digest.Digest) (string, error) {
	top := s.store.VolumeTop(image)
	if _, err := os.Lstat(top); err == nil {
		return top, nil
	}
	dir, name := filepath.Split(top)
	unfinished := name + ".new"
	if err := tree.RemovePath(dir, unfinished); err != nil {
		return "", err
	}
	if err := s.makeUpper(filepath.Join(dir, unfinished), layers, ""); err != nil {
		return "", err
	}
	return top, os.Rename(filepath.Join(dir, unfinished), top)
}

// releaseVolumes ends a container's use of images as volumes; idempotent.
func (s *Service) releaseVolumes(container string) error {
	var errs []error
	for _, image := range s.store.VolumesOf(container) {
		unlock := s.volumes.lock(image.String())
		if err := s.releaseVolume(image, container); err != nil {
			errs = append(errs, fmt.Errorf("release image %s: %w", image, err))
		}
		unlock()
	}
	return errors.Join(errs...)
}

// releaseVolume is called with the image's lock. The record goes last: what is
// mounted without one nobody would look for.
func (s *Service) releaseVolume(image digest.Digest, container string) error {
	users := s.store.VolumeUsers(image)
	variant, used := users[container]
	delete(users, container)
	if used && !usesVariant(users, variant) {
		if err := s.unmountVolume(image, variant); err != nil {
			return err
		}
	}
	return s.store.ReleaseVolume(image, container)
}

func usesVariant(users map[string]string, variant string) bool {
	for _, v := range users {
		if v == variant {
			return true
		}
	}
	return false
}

// unmountVolume unmounts a variant and removes its mountpoint, and that of the
// image with the last one. Nothing is removed recursively: it could be mounted.
func (s *Service) unmountVolume(image digest.Digest, variant string) error {
	target := s.volumeTarget(image, variant)
	if err := overlay.Unmount(target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mountpoint: %w", err)
	}
	_ = os.Remove(filepath.Dir(target)) // it holds other variants otherwise
	return nil
}

// sweepVolumes unmounts what a kill has left mounted without a user on record.
func (s *Service) sweepVolumes() error {
	targets, err := filepath.Glob(filepath.Join(s.opts.State, mountsDir, "*", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, target := range targets {
		encoded := filepath.Base(filepath.Dir(target))
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			image := digest.NewDigestFromEncoded(algorithm, encoded)
			if image.Validate() == nil {
				errs = append(errs, s.sweepVolume(image, filepath.Base(target)))
			}
		}
	}
	return errors.Join(errs...)
}

func (s *Service) sweepVolume(image digest.Digest, variant string) error {
	defer s.volumes.lock(image.String())()
	if usesVariant(s.store.VolumeUsers(image), variant) {
		return nil
	}
	s.log.Info("unmount an image that no container uses", "image", image)
	return s.unmountVolume(image, variant)
}

// volumeContainers are the containers that use images as volumes and that are not
// in known, which is in order.
func (s *Service) volumeContainers(known []string) []string {
	var more []string
	for _, container := range s.store.VolumeContainers() {
		if _, found := slices.BinarySearch(known, container); !found {
			more = append(more, container)
		}
	}
	return more
}
