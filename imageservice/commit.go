package imageservice

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/content"
	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/operation"
)

// CommitOptions say what becomes of a container's changes.
type CommitOptions struct {
	WrittenOptions
	// Name is that of the new image.
	Name string
	// Author and Message are for its history.
	Author, Message string
	// Changes to the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME and
	// WORKDIR, as in a Dockerfile.
	Changes []string
	// Standstill calls its argument while nothing writes to the container's root file
	// system; nil if that is so already, or does not matter.
	Standstill func(context.Context, func(context.Context) error) error
}

// Committed is a new image.
type Committed struct {
	ID, Name string
	// Digest is that of its manifest.
	Digest digest.Digest
}

// Commit makes an image of a container's image and what it has written: one layer more, whose
// blob is kept, so that the new image can leave the node. Either all of it is there when Commit
// returns nil, or nothing.
//
// Errors are errdefs.ErrNotFound without such a container, errdefs.ErrFailedPrecondition if
// its image was removed, or if there is what a layer cannot say, errdefs.ErrInvalidArgument
// for a name or change that does not parse, and errdefs.ErrResourceExhausted.
func (s *Service) Commit(ctx context.Context, containerID string, o CommitOptions) (_ Committed, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("commit container %s: %w", containerID, diskError(err))
		}
	}()
	ref, err := reference.Parse(o.Name)
	if err == nil && ref.Digest != "" {
		err = fmt.Errorf("name %q: a digest is not chosen: %w", o.Name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return Committed{}, err
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return Committed{}, err
	}
	defer end()
	c := &commit{s: s, containerID: containerID, o: o, lease: s.store.Lease()}
	defer func() { err = errors.Join(err, c.lease.Release()) }()
	if err := c.find(); err != nil {
		return Committed{}, err
	}
	if _, err := c.configure(nil); err != nil {
		return Committed{}, err // before anything stands still
	}
	r, err := c.image(ctx)
	if err != nil {
		return Committed{}, err
	}
	names := []string{ref.String(), ref.WithDigest(r.top).String()}
	if err := s.store.PutImage(r.record(time.Now()), names, r.config, r.manifest.Content); err != nil {
		return Committed{}, err
	}
	failpoint.Pass("commit/recorded")
	s.markDirty()
	s.log.Info("committed a container", "container", containerID, "id", r.id, "name", ref)
	return Committed{ID: r.id.String(), Name: ref.String(), Digest: r.top}, nil
}

// commit is one call of Commit.
type commit struct {
	s           *Service
	containerID string
	o           CommitOptions
	lease       *store.Lease

	// Of the container's image:
	base     *store.Image
	source   store.Source
	config   []byte
	history  []ocispec.History
	diffIDs  []digest.Digest
	settings ocispec.ImageConfig
}

// find looks the container's image up, and holds what the new one needs of it.
func (c *commit) find() error {
	rec, err := c.s.store.Rootfs(c.containerID)
	if err != nil {
		return err
	}
	if c.base, err = c.s.store.ByID(rec.Image.String()); err != nil {
		return fmt.Errorf("its image %s was removed: %w", rec.Image, errdefs.ErrFailedPrecondition)
	}
	var ok bool
	if c.source, ok = c.base.Source(""); !ok {
		return fmt.Errorf("its image %s: the manifest: %w", rec.Image, ErrDiscarded)
	}
	if len(c.base.Layers) >= manifest.MaxLayers {
		return fmt.Errorf("its image has %d layers already: %w", manifest.MaxLayers, errdefs.ErrFailedPrecondition)
	}
	for _, id := range c.base.Layers {
		c.lease.Hold(id)
	}
	for _, d := range c.source.Layers {
		c.lease.HoldBlob(d.Digest)
	}
	if c.config, err = c.s.store.ConfigDocument(c.base); err != nil {
		return err
	}
	parsed, err := manifest.ParseConfig(c.config, len(c.source.Layers))
	if err != nil {
		return err
	}
	c.diffIDs, c.history, c.settings = parsed.DiffIDs, parsed.Image.History, parsed.Image.Config
	return nil
}

// image puts all of the new image into the lease.
func (c *commit) image(ctx context.Context) (*resolved, error) {
	w, err := c.s.store.Content().Writer("", -1)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	standstill := c.o.Standstill
	if standstill == nil {
		standstill = func(ctx context.Context, f func(context.Context) error) error { return f(ctx) }
	}
	var diffID digest.Digest
	err = standstill(ctx, func(ctx context.Context) error {
		return operation.Do(ctx, "pack changes", func(ctx context.Context) (err error) {
			diffID, err = c.pack(ctx, w)
			return err
		})
	})
	if err == nil {
		err = w.Seal()
	}
	if err != nil {
		return nil, err
	}
	failpoint.Pass("commit/packed")
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: w.Digest(), Size: w.Size()}
	r, err := c.describe(desc, diffID)
	if err != nil {
		return nil, err
	}
	err = operation.Do(ctx, "unpack layer", func(ctx context.Context) error {
		return c.s.getLayer(ctx, layerRequest{
			desc: desc, id: diffID, diffID: diffID, bar: &layerBar{}, lease: c.lease,
			local: func(ocispec.Descriptor) (io.ReadCloser, error) { return w.Open() },
		})
	})
	if err != nil {
		return nil, err
	}
	failpoint.Pass("commit/unpacked")
	if !c.s.opts.DiscardBlobs {
		if _, err := c.lease.Commit(w); err != nil {
			return nil, err
		}
	}
	c.s.keepDocuments(ctx, r, nil, c.lease)
	return r, nil
}

// pack writes the layer's blob and returns the digest of the archive in it.
func (c *commit) pack(ctx context.Context, w *content.Writer) (digest.Digest, error) {
	defer c.s.rootfs.lock(c.containerID)()
	upper, err := os.Open(c.s.store.Upper(c.containerID))
	if err != nil {
		return "", fmt.Errorf("open writable layer: %w", err)
	}
	defer upper.Close()
	archive, blob := sha256.New(), gzip.NewWriter(w)
	mounts, _ := c.o.mounts()
	o := layer.PackOptions{IDs: c.o.IDs, Skip: func(name string) bool { return mounts[name] }}
	if err := layer.Pack(ctx, upper, io.MultiWriter(archive, blob), o); err != nil {
		return "", err
	}
	if err := blob.Close(); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, archive), nil
}

// describe makes the documents of the new image.
func (c *commit) describe(desc ocispec.Descriptor, diffID digest.Digest) (*resolved, error) {
	config, err := c.configure(&diffID)
	if err != nil {
		return nil, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: c.source.Manifest.MediaType,
		Config: ocispec.Descriptor{MediaType: c.source.Config.MediaType, Digest: digest.FromBytes(config), Size: int64(len(config))},
	}
	if m.MediaType != ocispec.MediaTypeImageManifest {
		desc.MediaType = manifest.DockerLayer // such a manifest has such layers
	}
	m.Layers = append(c.source.Layers[:len(c.source.Layers):len(c.source.Layers)], desc)
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(config) > manifest.MaxConfigSize || len(raw) > manifest.MaxSize {
		return nil, fmt.Errorf("the new image's documents would be too large: %w", errdefs.ErrFailedPrecondition)
	}
	top := digest.FromBytes(raw)
	return &resolved{
		top: top, manifest: registry.Document{Content: raw, MediaType: m.MediaType, Digest: top}, mediaType: m.MediaType, image: &m,
		layers: m.Layers, id: m.Config.Digest, config: config,
		diffIDs: append(c.diffIDs[:len(c.diffIDs):len(c.diffIDs)], diffID),
		ids:     append(c.base.Layers[:len(c.base.Layers):len(c.base.Layers)], diffID), encrypted: c.base.Encrypted,
	}, nil
}

// configure makes the configuration, with one layer more unless diffID is nil. What Berth does
// not know of the old one stays.
func (c *commit) configure(diffID *digest.Digest) ([]byte, error) {
	settings := c.settings
	settings.Env = append([]string{}, settings.Env...)
	if err := applyInstructions(&settings, c.o.Changes); err != nil {
		return nil, err
	}
	var document, inner map[string]json.RawMessage
	if err := json.Unmarshal(c.config, &document); err != nil {
		return nil, err
	}
	if raw := document["config"]; raw != nil {
		if err := json.Unmarshal(raw, &inner); err != nil {
			return nil, err
		}
	}
	inner, err := replaceFields(inner, settings)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	diffIDs, history := c.diffIDs, describedHistory(c.history, len(c.diffIDs))
	if diffID != nil {
		diffIDs = append(diffIDs[:len(diffIDs):len(diffIDs)], *diffID)
		history = append(history, ocispec.History{Created: &now, CreatedBy: strings.Join(append([]string{"berth commit"}, c.o.Changes...), "; "), Author: c.o.Author, Comment: c.o.Message})
	}
	fields := map[string]any{
		"created": now, "config": inner, "history": history, "rootfs": ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	}
	if c.o.Author != "" {
		fields["author"] = c.o.Author
	}
	for key, value := range fields {
		if document[key], err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	// What Docker says of the container that it made the old image of.
	delete(document, "container")
	delete(document, "container_config")
	return json.Marshal(document)
}

// describedHistory is a history with an entry for each layer, as tools that read it want.
func describedHistory(history []ocispec.History, layers int) []ocispec.History {
	described := 0
	for _, h := range history {
		if !h.EmptyLayer {
			described++
		}
	}
	if described != layers {
		return make([]ocispec.History, layers)
	}
	return history[:len(history):len(history)]
}

// replaceFields puts the settings in the place of those in fields, and leaves others.
func replaceFields(fields map[string]json.RawMessage, settings ocispec.ImageConfig) (map[string]json.RawMessage, error) {
	raw, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	var known map[string]json.RawMessage
	if err := json.Unmarshal(raw, &known); err != nil {
		return nil, err
	}
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	// These can become empty, which is left out.
	delete(fields, "Cmd")
	delete(fields, "Entrypoint")
	for key, value := range known {
		fields[key] = value
	}
	return fields, nil
}
