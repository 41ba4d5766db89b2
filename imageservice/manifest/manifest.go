// Package manifest reads the documents that describe images: manifests, indexes
// and configurations of the OCI and of Docker. They come from strangers: sizes,
// counts and digests are checked before anything is done with them.
package manifest

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits of documents, far above those of any image seen.
const (
	MaxSize       = 4 << 20 // bytes of a manifest or index
	MaxConfigSize = 8 << 20
	MaxLayers     = 500 // what overlayfs can stack
	MaxManifests  = 4096
	MaxIndexDepth = 4
	// maxLayerSize is above what registries store.
	maxLayerSize = 1 << 40
)

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1  = "application/vnd.docker.distribution.manifest.v1"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	// DockerLayer is a layer in a manifest of Docker.
	DockerLayer = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Document is an index or the manifest of an image; one of the two is not nil.
type Document struct {
	MediaType string
	Index     *ocispec.Index
	Image     *ocispec.Manifest
	// Artifact is the type of an artifact, which Image then describes; "" for an
	// image to run.
	Artifact string
}

// Parse reads a document that came with the given media type. Errors are
// errdefs.ErrInvalidArgument.
func Parse(content []byte, mediaType string) (Document, error) {
	d, err := parse(content, mediaType)
	if err != nil {
		return Document{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// shape holds what tells the kinds of documents apart.
type shape struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        json.RawMessage `json:"config"`
	Layers        json.RawMessage `json:"layers"`
	Manifests     json.RawMessage `json:"manifests"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

func parse(content []byte, mediaType string) (Document, error) {
	if len(content) > MaxSize {
		return Document{}, fmt.Errorf("manifest is longer than %d bytes", MaxSize)
	}
	var s shape
	if err := json.Unmarshal(content, &s); err != nil {
		return Document{}, fmt.Errorf("manifest is not JSON (content type %q): %w", mediaType, err)
	}
	if s.FSLayers != nil || s.SchemaVersion == 1 || strings.HasPrefix(mediaType, dockerSchema1) {
		return Document{}, fmt.Errorf("manifest is of Docker's schema 1, which no longer can be verified")
	}
	isImage, isIndex := s.Config != nil || s.Layers != nil, s.Manifests != nil
	if isImage == isIndex {
		return Document{}, fmt.Errorf("document is not clearly either a manifest or an index")
	}
	// The same bytes must mean the same to everyone who looks at their type.
	for _, t := range []string{s.MediaType, mediaType} {
		if known(t) && indexType(t) != isIndex {
			return Document{}, fmt.Errorf("document is called %q and has the fields of the other kind", t)
		}
	}
	if s.MediaType != "" && known(mediaType) && s.MediaType != mediaType {
		return Document{}, fmt.Errorf("document calls itself %q and came as %q", s.MediaType, mediaType)
	}
	if s.MediaType == "" && known(mediaType) {
		s.MediaType = mediaType
	}
	if isIndex {
		return parseIndex(content, s.MediaType)
	}
	return parseImage(content, s.MediaType)
}

func known(t string) bool { return indexType(t) || imageType(t) }

func indexType(t string) bool { return t == ocispec.MediaTypeImageIndex || t == dockerList }
func imageType(t string) bool { return t == ocispec.MediaTypeImageManifest || t == dockerManifest }

func parseIndex(content []byte, mediaType string) (Document, error) {
	var index ocispec.Index
	if err := json.Unmarshal(content, &index); err != nil {
		return Document{}, fmt.Errorf("parse index: %w", err)
	}
	if len(index.Manifests) > MaxManifests {
		return Document{}, fmt.Errorf("index of more than %d manifests", MaxManifests)
	}
	for i, m := range index.Manifests {
		if err := checkDescriptor(m); err != nil {
			return Document{}, fmt.Errorf("index, manifest %d: %w", i, err)
		}
	}
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageIndex
	}
	return Document{MediaType: mediaType, Index: &index}, nil
}

func parseImage(content []byte, mediaType string) (Document, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		return Document{}, fmt.Errorf("parse manifest: %w", err)
	}
	if err := checkDescriptor(m.Config); err != nil {
		return Document{}, fmt.Errorf("config: %w", err)
	}
	artifact, check := artifactType(&m), checkLayer
	if artifact != "" {
		check = checkArtifactLayer
	}
	if m.Config.Size > MaxConfigSize {
		return Document{}, fmt.Errorf("config of more than %d bytes", MaxConfigSize)
	}
	if len(m.Layers) > MaxLayers {
		return Document{}, fmt.Errorf("%d layers are more than %d", len(m.Layers), MaxLayers)
	}
	for i, l := range m.Layers {
		if err := check(l); err != nil {
			return Document{}, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageManifest
	}
	return Document{MediaType: mediaType, Image: &m, Artifact: artifact}, nil
}

func checkDescriptor(d ocispec.Descriptor) error {
	if _, err := reference.ParseDigest(d.Digest.String()); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("size %d", d.Size)
	}
	return nil
}

func checkLayer(l ocispec.Descriptor) error {
	if err := checkDescriptor(l); err != nil {
		return err
	}
	if l.Size > maxLayerSize {
		return fmt.Errorf("size of %d bytes", l.Size)
	}
	if strings.Contains(l.MediaType, "tar") || l.MediaType == "" || l.MediaType == "application/octet-stream" {
		return nil
	}
	return fmt.Errorf("unknown media type %q", l.MediaType)
}

// Config is an image's configuration and the DiffIDs of its layers.
type Config struct {
	Image   ocispec.Image
	DiffIDs []digest.Digest
}

// ParseConfig reads the configuration that belongs to a manifest of the given
// number of layers. Errors are errdefs.ErrInvalidArgument.
func ParseConfig(content []byte, layers int) (Config, error) {
	var c Config
	if err := json.Unmarshal(content, &c.Image); err != nil {
		return Config{}, fmt.Errorf("parse image configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	c.DiffIDs = c.Image.RootFS.DiffIDs
	if len(c.DiffIDs) != layers {
		return Config{}, fmt.Errorf("image configuration describes %d layers, the manifest %d: %w", len(c.DiffIDs), layers, errdefs.ErrInvalidArgument)
	}
	for i, d := range c.DiffIDs {
		if _, err := reference.ParseDigest(d.String()); err != nil {
			return Config{}, fmt.Errorf("image configuration, layer %d: %w: %w", i, err, errdefs.ErrInvalidArgument)
		}
	}
	return c, nil
}
