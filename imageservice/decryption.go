package imageservice

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/encryption"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/store"
)

// encryptedLayer is what is kept of an encrypted layer, to ask again for its key.
type encryptedLayer struct {
	Descriptor ocispec.Descriptor `json:"descriptor"`
	// DiffID is that of the configuration, or what stands for it in an artifact.
	DiffID digest.Digest `json:"diffID"`
	// ID is what the store has it under.
	ID digest.Digest `json:"id"`
}

// unlock finds the keys of the image's encrypted layers, before any is fetched, and
// says what the store has each layer under.
func (s *Service) unlock(r *resolved) error {
	r.ids, r.keys = slices.Clone(r.diffIDs), make([]*encryption.Key, len(r.layers))
	var list []encryptedLayer
	for i, desc := range r.layers {
		if !encryption.Encrypted(desc) || r.artifact != "" && !encryption.Wrapped(desc) {
			continue
		}
		key, err := s.decryption.keys.Unwrap(desc)
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		r.keys[i], r.ids[i] = key, key.Identity(r.diffIDs[i])
		list = append(list, encryptedLayer{encryption.Stripped(desc), r.diffIDs[i], r.ids[i]})
	}
	if list == nil {
		return nil
	}
	var err error
	r.encrypted, err = json.Marshal(list)
	return err
}

// decryption tells which images the node has the keys of.
type decryption struct {
	keys *encryption.Keys

	mu sync.Mutex
	// stamp is the state of the keys under which the images in opened were found
	// to open, each with the digest of what was recorded of its layers.
	stamp  string
	opened map[digest.Digest]digest.Digest
}

func newDecryption(dir string, log *slog.Logger) (*decryption, error) {
	keys, err := encryption.Open(dir, log)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return &decryption{keys: keys, opened: map[digest.Digest]digest.Digest{}}, nil
}

// maxOpened bounds what is remembered of images, most of which are long gone then.
const maxOpened = 10_000

// allows returns nil if the node has, now, a key of each encrypted layer of the
// image. That a layer is there in clear gives nobody a right to it.
func (d *decryption) allows(img *store.Image) error {
	if len(img.Encrypted) == 0 {
		return nil
	}
	stamp, what := d.keys.Stamp(), digest.FromBytes(img.Encrypted)
	d.mu.Lock()
	if d.stamp != stamp || len(d.opened) > maxOpened {
		d.stamp, d.opened = stamp, map[digest.Digest]digest.Digest{}
	}
	known := d.opened[img.ID] == what
	d.mu.Unlock()
	if known {
		return nil
	}
	if err := d.opens(img); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stamp == stamp {
		d.opened[img.ID] = what
	}
	return nil
}

func (d *decryption) opens(img *store.Image) error {
	var list []encryptedLayer
	if err := json.Unmarshal(img.Encrypted, &list); err != nil || len(list) > manifest.MaxLayers {
		return fmt.Errorf("read the record of its encrypted layers: %w", errdefs.ErrDataLoss)
	}
	for _, l := range list {
		key, err := d.keys.Unwrap(l.Descriptor)
		if err != nil {
			return fmt.Errorf("layer %s: %w", l.Descriptor.Digest, err)
		}
		if key.Identity(l.DiffID) != l.ID {
			return fmt.Errorf("layer %s: it was decrypted with another key: %w", l.Descriptor.Digest, encryption.ErrNoKey)
		}
	}
	return nil
}
