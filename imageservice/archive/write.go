package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/content"
	"github.com/berth-cri/berth/imageservice/reference"
)

// Writer writes an archive. The same images make the same bytes.
type Writer struct {
	tar  *tar.Writer
	done map[string]bool // files that are written
	dirs map[string]bool
}

// NewWriter writes to w. The caller ends with the index of one of the two kinds, and
// Close.
func NewWriter(w io.Writer) *Writer {
	return &Writer{tar: tar.NewWriter(w), done: map[string]bool{}, dirs: map[string]bool{}}
}

// File adds a file of the given size, each name once: a second one is left out, unread.
func (w *Writer) File(name string, size int64, body io.Reader) error {
	if w.done[name] {
		return nil
	}
	if err := w.directory(path.Dir(name)); err != nil {
		return err
	}
	w.done[name] = true
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(w.tar, body)
	if err == nil && n != size {
		err = fmt.Errorf("it has %d bytes and not %d: %w", n, size, content.ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (w *Writer) directory(name string) error {
	if name == "." || w.dirs[name] {
		return nil
	}
	if err := w.directory(path.Dir(name)); err != nil {
		return err
	}
	w.dirs[name] = true
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Unix(0, 0)})
}

// Blob adds a blob of an OCI layout, and verifies it.
func (w *Writer) Blob(d digest.Digest, b *content.Blob) error {
	return w.File(path.Join(blobsDirectory, d.Algorithm().String(), d.Encoded()), b.Size(), b.Reader(d))
}

// Named is an image under one name, or none.
type Named struct {
	Top ocispec.Descriptor
	Ref *reference.Reference
}

// Layout ends an OCI layout.
func (w *Writer) Layout(images []Named) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, i := range images {
		top := i.Top
		if i.Ref != nil {
			top.Annotations = map[string]string{nameAnnotation: i.Ref.String()}
			if i.Ref.Tag != "" {
				top.Annotations[ocispec.AnnotationRefName] = i.Ref.Tag
			}
		}
		index.Manifests = append(index.Manifests, top)
	}
	if err := w.document(indexFile, index); err != nil {
		return err
	}
	return w.document(layoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// DockerImage is an image of a docker archive, by the names of its files.
type DockerImage struct {
	Config string
	Layers []string
	Tags   []string
}

// Docker ends a docker archive.
func (w *Writer) Docker(images []DockerImage) error {
	entries := []dockerEntry{}
	for _, i := range images {
		entries = append(entries, dockerEntry{Config: i.Config, RepoTags: i.Tags, Layers: i.Layers})
	}
	return w.document(dockerFile, entries)
}

func (w *Writer) document(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.File(name, int64(len(raw)), bytes.NewReader(raw))
}

// Close ends the archive; what it was written to stays open.
func (w *Writer) Close() error { return w.tar.Close() }
