package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	imageFile    = "record.json"
	imageKind    = "image"
	configFile   = "config.json"
	manifestFile = "manifest.json"
)

// maxNames bounds the names of one image, so that its record stays one that can be
// read again.
const maxNames = 10_000

// Image is the record of an image. Its ID is the digest of its configuration, that
// of an artifact the digest of its manifest.
type Image struct {
	ID digest.Digest `json:"id"`
	// Names are normalised references, tags and digests.
	Names []Name `json:"names"`
	// Layers from the lowest to the topmost.
	Layers []digest.Digest `json:"layers"`
	// ManifestDigest is that of the manifest of this platform.
	ManifestDigest digest.Digest `json:"manifestDigest"`
	MediaType      string        `json:"mediaType"` // of the manifest
	// Artifact is the type of an artifact, which is not an image to run.
	Artifact string `json:"artifact,omitempty"`
	// Annotations are those of the manifest.
	Annotations map[string]string `json:"annotations,omitempty"`
	// UserSpecified is what the last pull's caller called it.
	UserSpecified string `json:"userSpecified,omitempty"`
	// Signatures are kept as the image service found them; the store does not read
	// them. An image that is recorded again without any keeps those it has.
	Signatures json.RawMessage `json:"signatures,omitempty"`
	// Encrypted are the image's encrypted layers, as the image service describes them;
	// the store does not read them.
	Encrypted json.RawMessage `json:"encrypted,omitempty"`
	PulledAt  time.Time       `json:"pulledAt"`
	// Sources are the ways in which the image came, as long as a name leads to them.
	Sources []Source `json:"sources,omitempty"`
	// Imports are the files of watched folders that hold the image: it is pinned while
	// there is one. An image that is recorded again keeps those it has.
	Imports []Import `json:"imports,omitempty"`

	// Config is the parsed configuration; callers must not change it.
	Config *ocispec.Image `json:"-"`
	// ConfigSize is that of the configuration as it came.
	ConfigSize int64 `json:"-"`
}

// Import is a file of a watched folder that holds an image.
type Import struct {
	Path string `json:"path"`
	// Version tells one content of the file from another.
	Version string `json:"version"`
	// Images is how many images the file holds in all.
	Images int `json:"images"`
}

// mergeImports adds imports to those of before; one of the same file takes its place.
func mergeImports(before, now []Import) []Import {
	kept := slices.DeleteFunc(slices.Clone(before), func(b Import) bool {
		return slices.ContainsFunc(now, func(n Import) bool { return n.Path == b.Path && n.Version == b.Version })
	})
	return append(kept, now...)
}

// Name is a reference that leads to an image. Seq grows with every naming: when a
// kill left one name at two images, the later one has it.
type Name struct {
	Ref string `json:"ref"`
	Seq uint64 `json:"seq"`
	// Top is the digest of the source that the name led to.
	Top digest.Digest `json:"top,omitempty"`
}

// Refs returns the names as strings.
func (i *Image) Refs() []string {
	refs := make([]string, len(i.Names))
	for n, name := range i.Names {
		refs[n] = name.Ref
	}
	return refs
}

func (i *Image) clone() *Image {
	c := *i
	c.Names = slices.Clone(i.Names)
	c.Sources = slices.Clone(i.Sources)
	c.Imports = slices.Clone(i.Imports)
	return &c
}

func (s *Store) imagePath(id digest.Digest, elem ...string) string {
	return s.path(append([]string{imagesDir, id.Encoded()}, elem...)...)
}

func (s *Store) loadImages() error {
	names, err := s.entries(imagesDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.dropTemporary(filepath.Join(imagesDir, name)); err != nil {
			return err
		}
		img, err := s.readImage(name)
		if err != nil {
			if err := s.setAside(s.path(imagesDir, name), err); err != nil {
				return err
			}
			continue
		}
		if missing := s.missing(img.Layers); missing != "" {
			if !s.wasWhole(img.ID) {
				s.log.Warn("forget an image: it was not on the disk yet when the machine went down", "image", img.ID, "names", img.Refs(), "layer", missing)
				if err := s.discard(s.path(imagesDir, name)); err != nil {
					return err
				}
				continue
			}
			s.log.Warn("an image has lost a layer, which is fetched again when it is needed", "image", img.ID, "names", img.Refs(), "layer", missing)
			s.expect(img.Layers)
		}
		s.take(img)
	}
	s.settleNames()
	return nil
}

func (s *Store) missing(ids []digest.Digest) digest.Digest {
	for _, id := range ids {
		if e, ok := s.layers[id]; !ok || e.missing {
			return id
		}
	}
	return ""
}

// wasWhole tells whether an image was on the disk with all its layers once: then what
// is missing is damage. Else the image is one that a power loss has cut off.
func (s *Store) wasWhole(id digest.Digest) bool {
	_, err := os.Lstat(s.imagePath(id, syncedFile))
	return err == nil
}

// expect makes those of the layers that are not there missing ones.
func (s *Store) expect(ids []digest.Digest) {
	for _, id := range ids {
		if _, ok := s.layers[id]; !ok {
			s.layers[id] = &layerEntry{rec: Layer{DiffID: id}, missing: true}
		}
	}
}

// take puts img into the maps and refers to its layers.
func (s *Store) take(img *Image) {
	s.images[img.ID] = img
	s.unsyncedImages[img.ID] = true // an earlier process may have left it so
	for _, id := range img.Layers {
		s.layers[id].refs++
	}
	s.refBlobs(img.Blobs())
	for _, n := range img.Names {
		s.seq = max(s.seq, n.Seq)
	}
}

// settleNames gives each name to the image that got it last.
func (s *Store) settleNames() {
	last := map[string]uint64{}
	for _, img := range s.images {
		for _, n := range img.Names {
			if n.Seq >= last[n.Ref] {
				last[n.Ref] = n.Seq
				s.names[n.Ref] = img.ID
			}
		}
	}
	for _, img := range s.images {
		before := img.Blobs()
		img.Names = slices.DeleteFunc(img.Names, func(n Name) bool { return s.names[n.Ref] != img.ID })
		img.dropSources()
		s.refBlobs(img.Blobs())
		s.unrefBlobs(before) // what goes by that, dropBlobs finds
	}
}

func (s *Store) readImage(dir string) (*Image, error) {
	var img Image
	if err := readRecord(s.path(imagesDir, dir, imageFile), imageKind, &img); err != nil {
		return nil, err
	}
	if img.ID.Validate() != nil || img.ID.Encoded() != dir {
		return nil, fmt.Errorf("%w: record is that of image %q", errDamaged, img.ID)
	}
	config, err := os.ReadFile(s.imagePath(img.ID, configFile))
	if err != nil {
		return nil, err
	}
	identity := config
	if img.Artifact != "" {
		if identity, err = os.ReadFile(s.imagePath(img.ID, manifestFile)); err != nil {
			return nil, err
		}
	}
	if err := img.setConfig(config, identity); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return &img, nil
}

// setConfig takes the configuration; identity is the document whose digest the ID
// is.
func (i *Image) setConfig(raw, identity []byte) error {
	if got := i.ID.Algorithm().FromBytes(identity); got != i.ID {
		return fmt.Errorf("what identifies it has digest %s", got)
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return fmt.Errorf("parse configuration: %w", err)
	}
	i.Config, i.ConfigSize = &config, int64(len(raw))
	return nil
}

// PutImage records img under refs, which it takes away from other images. An
// image that is there already keeps its other names and the sources that they lead
// to; the new names lead to the one source that img has, if it has one. Layers that it
// had and has no more it gives up. The caller holds a lease on the layers and blobs.
func (s *Store) PutImage(img Image, refs []string, config, manifest []byte) error {
	replaced := s.Lease()
	err := s.recordImage(img, refs, config, manifest, replaced)
	return errors.Join(err, replaced.Release())
}

// recordImage gives the layers that the image had before to replaced.
func (s *Store) recordImage(img Image, refs []string, config, manifest []byte, replaced *Lease) error {
	s.commit.Lock()
	trash, err := s.putImage(img, refs, config, manifest, replaced)
	// The image is recorded: what cannot be removed now is removed at the next start.
	if derr := s.disposeBlobs(trash); derr != nil {
		s.log.Warn("remove blobs that no image has any more", "error", derr)
	}
	return err
}

// putImage returns the blobs that nothing refers to any more. commit is held.
func (s *Store) putImage(img Image, refs []string, config, manifest []byte, replaced *Lease) ([]digest.Digest, error) {
	identity := config
	if img.Artifact != "" {
		identity = manifest
	}
	if err := img.setConfig(config, identity); err != nil {
		return nil, fmt.Errorf("record image %s: %w", img.ID, err)
	}
	old, err := s.ByID(img.ID.String())
	if err == nil {
		if img.Signatures == nil {
			img.Signatures = old.Signatures
		}
		img.Imports = mergeImports(old.Imports, img.Imports)
	}
	img.nameAnew(s.nextNames(img.ID, refs), refs, old)
	if len(img.Names) > maxNames {
		return nil, fmt.Errorf("record image %s: it has %d names already: %w", img.ID, maxNames, errdefs.ErrResourceExhausted)
	}
	if err := s.writeImage(&img, config, manifest); err != nil {
		return nil, fmt.Errorf("record image %s: %w", img.ID, named(err))
	}
	return s.show(&img, replaced), nil
}

// show makes a recorded image visible, and records those that have lost a name to it. It
// returns the blobs that nothing refers to any more. commit is held.
func (s *Store) show(img *Image, replaced *Lease) []digest.Digest {
	s.mu.Lock()
	losers, trash := s.install(img, replaced)
	s.unsyncedImages[img.ID] = true
	for _, l := range losers {
		s.unsyncedImages[l.ID] = true
	}
	s.mu.Unlock()
	// Should these writes be missed, the sequence numbers settle it at the next
	// start.
	for _, l := range losers {
		failpoint.Pass("store/image/name-moved")
		if err := rewriteRecord(s.imagePath(l.ID, imageFile), imageKind, l); err != nil {
			s.log.Warn("record that a name has moved", "image", l.ID, "error", err)
		}
	}
	return trash
}

// nextNames is the image's present names with refs, numbered anew.
func (s *Store) nextNames(id digest.Digest, refs []string) []Name {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []Name
	if old, ok := s.images[id]; ok {
		names = slices.Clone(old.Names)
	}
	for _, ref := range refs {
		s.seq++
		names = slices.DeleteFunc(names, func(n Name) bool { return n.Ref == ref })
		names = append(names, Name{Ref: ref, Seq: s.seq})
	}
	return names
}

// writeImage makes the image's directory, or replaces the record in it.
func (s *Store) writeImage(img *Image, config, manifest []byte) error {
	dir := s.imagePath(img.ID)
	if _, err := os.Lstat(dir); err == nil {
		return errors.Join(
			failpoint.Hit("store/image/replace"),
			replaceDurably(filepath.Join(dir, manifestFile), manifest),
			rewriteRecord(filepath.Join(dir, imageFile), imageKind, img))
	}
	tmp, err := os.MkdirTemp(s.path(ingestDir), "image-")
	if err != nil {
		return err
	}
	err = errors.Join(
		failpoint.Hit("store/image/write"),
		os.WriteFile(filepath.Join(tmp, configFile), config, 0o600),
		os.WriteFile(filepath.Join(tmp, manifestFile), manifest, 0o600),
		writeRecord(filepath.Join(tmp, imageFile), imageKind, img))
	if err == nil {
		err = failpoint.Hit("store/image/rename")
	}
	if err == nil {
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(tmp))
	}
	return err
}

// install makes img visible and returns the images that lost a name to it, and the
// blobs that nothing refers to any more. mu is held.
func (s *Store) install(img *Image, replaced *Lease) (losers []*Image, trash []digest.Digest) {
	s.refBlobs(img.Blobs())
	if old, ok := s.images[img.ID]; ok {
		trash = s.unrefBlobs(old.Blobs())
		for _, n := range old.Names {
			delete(s.names, n.Ref) // it may not have it any more
		}
	}
	for _, n := range img.Names {
		owner, ok := s.names[n.Ref]
		s.names[n.Ref] = img.ID
		if !ok || owner == img.ID {
			continue
		}
		loser := s.images[owner].clone()
		loser.Names = slices.DeleteFunc(loser.Names, func(x Name) bool { return x.Ref == n.Ref })
		loser.dropSources()
		s.refBlobs(loser.Blobs())
		trash = append(trash, s.unrefBlobs(s.images[owner].Blobs())...)
		s.images[owner] = loser
		if !slices.ContainsFunc(losers, func(l *Image) bool { return l.ID == owner }) {
			losers = append(losers, loser)
		}
	}
	for i, l := range losers {
		losers[i] = s.images[l.ID] // the last of its versions
	}
	if old, ok := s.images[img.ID]; !ok || !slices.Equal(old.Layers, img.Layers) {
		for _, id := range img.Layers {
			s.layers[id].refs++
		}
		if ok {
			replaced.held = append(replaced.held, old.Layers...)
		}
	}
	s.images[img.ID] = img
	return losers, trash
}

// Images returns all images, ordered by ID. Callers must not change them.
func (s *Store) Images() []*Image {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*Image, 0, len(s.images))
	for _, img := range s.images {
		list = append(list, img)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	return list
}

// ByName finds the image that has the normalised reference, or returns
// errdefs.ErrNotFound.
func (s *Store) ByName(ref string) (*Image, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if id, ok := s.names[ref]; ok {
		return s.images[id], nil
	}
	return nil, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

// ByID finds an image by its ID or by the beginning of it, with or without the
// algorithm. A beginning of several IDs is errdefs.ErrInvalidArgument.
func (s *Store) ByID(id string) (*Image, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if img, ok := s.images[digest.Digest(id)]; ok {
		return img, nil
	}
	prefix := id
	if algo, hex, ok := strings.Cut(id, ":"); ok && (algo == string(digest.SHA256) || algo == string(digest.SHA512)) {
		prefix = hex
	}
	var found *Image
	for _, img := range s.images {
		if prefix == "" || !strings.HasPrefix(img.ID.Encoded(), prefix) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("image ID %q is the beginning of several: %w", id, errdefs.ErrInvalidArgument)
		}
		found = img
	}
	if found == nil {
		return nil, fmt.Errorf("image %q: %w", id, errdefs.ErrNotFound)
	}
	return found, nil
}

// RemoveImage removes the image with all its names, and the layers that nothing
// else needs. It is idempotent.
func (s *Store) RemoveImage(id digest.Digest) error {
	s.commit.Lock()
	s.mu.RLock()
	img, ok := s.images[id]
	s.mu.RUnlock()
	if !ok {
		s.commit.Unlock()
		return nil
	}
	// The record goes first: layers without an image are collected at the next
	// start, an image without layers would not work.
	dir, err := s.takeAway(s.imagePath(id))
	if err != nil {
		s.commit.Unlock()
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	failpoint.Pass("store/image/removed")
	s.mu.Lock()
	delete(s.images, id)
	for _, n := range img.Names {
		if s.names[n.Ref] == id {
			delete(s.names, n.Ref)
		}
	}
	layers, blobs := s.unref(img.Layers), s.unrefBlobs(img.Blobs())
	s.mu.Unlock()
	return s.dispose(layers, append(s.takeBlobs(blobs), dir)...)
}
