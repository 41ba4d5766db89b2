package archive

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/content"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/reference"
)

// nameAnnotation has the whole name of an image in a layout; the OCI's own may hold
// only its tag.
const nameAnnotation = "io.containerd.image.name"

const maxImages = 4096

// Image is what an archive calls an image.
type Image struct {
	Top ocispec.Descriptor // an index or a manifest
	// Names are references as the archive has them, Tags those that lack a repository.
	Names, Tags []string
}

// Images lists what the archive holds: all that its index has, signatures too.
func (a *Archive) Images() ([]Image, error) {
	if _, err := a.lookup(indexFile); err == nil {
		return a.layoutImages()
	}
	if _, err := a.lookup(dockerFile); err == nil {
		return a.dockerImages()
	}
	return nil, fmt.Errorf("it has neither %s nor %s: %w", indexFile, dockerFile, ErrInvalid)
}

func (a *Archive) layoutImages() ([]Image, error) {
	var layout ocispec.ImageLayout
	if raw, err := a.content(layoutFile, manifest.MaxSize); err != nil {
		return nil, err
	} else if err := json.Unmarshal(raw, &layout); err != nil || !strings.HasPrefix(layout.Version, "1.") {
		return nil, fmt.Errorf("%s: version %.20q is not known: %w", layoutFile, layout.Version, ErrInvalid)
	}
	raw, err := a.content(indexFile, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(raw, ocispec.MediaTypeImageIndex)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexFile, err)
	}
	var list []Image
	for _, top := range doc.Index.Manifests {
		i := Image{Top: top}
		name := top.Annotations[nameAnnotation]
		if short := top.Annotations[ocispec.AnnotationRefName]; name == "" {
			name = short
		}
		switch {
		case name == "":
		case strings.ContainsAny(name, "/:@"):
			i.Names = []string{name}
		default:
			i.Tags = []string{name}
		}
		list = append(list, i)
	}
	return list, nil
}

// dockerEntry is an image in docker's manifest.json.
type dockerEntry struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

func (a *Archive) dockerImages() ([]Image, error) {
	raw, err := a.content(dockerFile, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	var entries []dockerEntry
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", dockerFile, err, ErrInvalid)
	}
	if len(entries) > maxImages {
		return nil, fmt.Errorf("%s: %d images are more than %d: %w", dockerFile, len(entries), maxImages, ErrInvalid)
	}
	var list []Image
	for n, e := range entries {
		top, err := a.makeManifest(e)
		if err != nil {
			return nil, fmt.Errorf("%s, image %d: %w", dockerFile, n, err)
		}
		list = append(list, Image{Top: top, Names: e.RepoTags})
	}
	return list, nil
}

// makeManifest makes the manifest that docker's archives do not have, always the same
// one of the same files.
func (a *Archive) makeManifest(e dockerEntry) (ocispec.Descriptor, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: []ocispec.Descriptor{},
	}
	config, err := a.lookup(e.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: config.Digest(), Size: config.Size()}
	if len(e.Layers) > manifest.MaxLayers {
		return ocispec.Descriptor{}, fmt.Errorf("%d layers are more than %d: %w", len(e.Layers), manifest.MaxLayers, ErrInvalid)
	}
	for _, name := range e.Layers {
		w, err := a.lookup(name)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		mediaType, err := layerType(w)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: mediaType, Digest: w.Digest(), Size: w.Size()})
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := digest.FromBytes(raw)
	a.made[d] = raw
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(raw))}, nil
}

// layerType tells from the first bytes how a layer is compressed.
func layerType(w *content.Writer) (string, error) {
	b, err := w.Open()
	if err != nil {
		return "", err
	}
	defer b.Close()
	var magic [4]byte
	if _, err := io.ReadFull(b, magic[:]); err != nil {
		return ocispec.MediaTypeImageLayer, nil // too short to be compressed; unpacking says the rest
	}
	switch {
	case magic[0] == 0x1f && magic[1] == 0x8b:
		return ocispec.MediaTypeImageLayerGzip, nil
	case string(magic[:]) == "\x28\xb5\x2f\xfd":
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return ocispec.MediaTypeImageLayer, nil
}

// References are the names of what the archive calls an image. repository is for those
// that have only a tag; "" leaves those without a name.
func (i Image) References(repository string) ([]reference.Reference, error) {
	names := i.Names
	for _, tag := range i.Tags {
		if repository != "" {
			names = append(names[:len(names):len(names)], repository+":"+tag)
		}
	}
	var refs []reference.Reference
	for _, name := range names {
		ref, err := reference.Parse(name)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}
