package manifest

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// unpackAnnotation marks a directory that ORAS has put into an archive.
const unpackAnnotation = "io.deis.oras.content.unpack"

const (
	maxTitle     = 4096
	maxTitlePart = 255 // what a file system takes
)

// ArtifactLayer is a layer of an artifact: an OCI manifest that packs files and is
// not an image to run.
type ArtifactLayer struct {
	// Name is the path of the file that the blob is; "" for an archive.
	Name string
	// Archive tells that the blob is an archive to be unpacked. With a Name it may
	// be one: tools call any file an archive unless told its type, and its content
	// has to say.
	Archive bool
}

// Key identifies what comes of the layer's blob, as a DiffID does for images,
// which artifacts have none of.
func (l ArtifactLayer) Key(blob digest.Digest) digest.Digest {
	return digest.FromString(fmt.Sprintf("artifact layer\x00%s\x00%s\x00%t", blob, l.Name, l.Archive))
}

// artifactType is what the manifest says it holds if it is an artifact; "" for an
// image. OCI image-spec v1.1, "Guidelines for Artifact Usage": the artifactType,
// else the media type of the configuration.
func artifactType(m *ocispec.Manifest) string {
	if !imageConfig(m.Config.MediaType) {
		if m.ArtifactType != "" {
			return m.ArtifactType
		}
		return m.Config.MediaType
	}
	if m.ArtifactType == "" {
		return ""
	}
	for _, l := range m.Layers {
		if !archive(l.MediaType) {
			return m.ArtifactType
		}
	}
	return "" // an image to run that also has a type
}

func imageConfig(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageConfig, dockerConfig, "", "application/octet-stream":
		return true
	}
	return false
}

// archive tells whether the media type of a layer is that of an archive.
func archive(mediaType string) bool {
	base, _, _ := strings.Cut(mediaType, "+")
	return strings.HasSuffix(base, ".tar") || strings.HasSuffix(base, ".tar.gzip") || strings.HasSuffix(base, ".tar.zstd") ||
		base == "application/x-tar" || base == "application/tar"
}

// Artifact says how a layer of an artifact is to be written. A file has the name
// of its title annotation, else its digest; a title that is no path within the
// artifact is an error.
func Artifact(l ocispec.Descriptor) (ArtifactLayer, error) {
	title := l.Annotations[ocispec.AnnotationTitle]
	if archive(l.MediaType) && (title == "" || l.Annotations[unpackAnnotation] == "true") {
		return ArtifactLayer{Archive: true}, nil
	}
	if title == "" {
		return ArtifactLayer{Name: l.Digest.Algorithm().String() + "-" + l.Digest.Encoded()}, nil
	}
	clean := filepath.Clean(title)
	if len(title) > maxTitle || strings.IndexByte(title, 0) >= 0 || clean == "." || !filepath.IsLocal(clean) {
		return ArtifactLayer{}, fmt.Errorf("title %.200q is not the path of a file within the artifact", title)
	}
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > maxTitlePart {
			return ArtifactLayer{}, fmt.Errorf("title %.200q has a part of %d bytes", title, len(part))
		}
	}
	return ArtifactLayer{Name: clean, Archive: archive(l.MediaType)}, nil
}

// checkArtifactLayer takes any media type.
func checkArtifactLayer(l ocispec.Descriptor) error {
	if err := checkDescriptor(l); err != nil {
		return err
	}
	if l.Size > maxLayerSize {
		return fmt.Errorf("size of %d bytes", l.Size)
	}
	_, err := Artifact(l)
	return err
}
