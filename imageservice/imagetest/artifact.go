package imagetest

import (
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Artifact is an OCI artifact: files, packed by a manifest.
type Artifact struct {
	Type  string // artifactType
	Files []ArtifactFile
	// Config is the media type of the configuration; OCI's empty one by default.
	Config string
}

// ArtifactFile is a layer of an artifact.
type ArtifactFile struct {
	Title     string // "" for none
	MediaType string
	Blob      []byte
	// Annotations beside the title.
	Annotations map[string]string
}

// emptyConfig is the content of OCI's empty configuration.
var emptyConfig = []byte("{}")

// Manifest is the manifest document and its media type.
func (a *Artifact) Manifest() (content []byte, mediaType string) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: a.Type,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: digest.FromBytes(emptyConfig), Size: int64(len(emptyConfig))},
		Layers: []ocispec.Descriptor{},
	}
	if a.Config != "" {
		m.Config.MediaType = a.Config
	}
	for _, f := range a.Files {
		d := ocispec.Descriptor{MediaType: f.MediaType, Digest: digest.FromBytes(f.Blob), Size: int64(len(f.Blob)), Annotations: map[string]string{}}
		for k, v := range f.Annotations {
			d.Annotations[k] = v
		}
		if f.Title != "" {
			d.Annotations[ocispec.AnnotationTitle] = f.Title
		}
		m.Layers = append(m.Layers, d)
	}
	return encode(m), m.MediaType
}

// Digest is that of the manifest, which is the artifact's ID.
func (a *Artifact) Digest() digest.Digest {
	content, _ := a.Manifest()
	return digest.FromBytes(content)
}

// PushArtifact stores an artifact under repository:tag and returns its name.
func (r *Registry) PushArtifact(repository, tag string, a *Artifact) (string, error) {
	blobs := [][]byte{emptyConfig}
	for _, f := range a.Files {
		blobs = append(blobs, f.Blob)
	}
	for _, b := range blobs {
		if err := r.PutBlob(repository, b); err != nil {
			return "", err
		}
	}
	content, mediaType := a.Manifest()
	if err := r.PutManifest(repository, tag, mediaType, content); err != nil {
		return "", err
	}
	return r.Host + "/" + repository + ":" + tag, nil
}
