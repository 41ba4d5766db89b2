package noderegistry

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/store"
)

// holding is an image as a name of a repository led to it.
type holding struct {
	tag    string // "" for a name by digest
	source store.Source
}

// documents are what the API calls manifests.
func (h holding) documents() []ocispec.Descriptor {
	return append(slices.Clone(h.source.Indexes), h.source.Manifest)
}

// blobs are what the API calls blobs.
func (h holding) blobs() []ocispec.Descriptor {
	return append(slices.Clone(h.source.Layers), h.source.Config)
}

// held are the images that the node has of a repository: whole ones, since an image
// is recorded after its last layer.
func (s *Server) held(repo reference.Reference) []holding {
	var list []holding
	for _, img := range s.images.Images() {
		for _, name := range img.Names {
			if !strings.HasPrefix(name.Ref, repo.Repository()) {
				continue
			}
			ref, err := reference.Parse(name.Ref)
			if err != nil || ref.Domain != repo.Domain || ref.Path != repo.Path {
				continue
			}
			if source, ok := img.SourceOf(name); ok {
				list = append(list, holding{ref.Tag, source})
			}
		}
	}
	return list
}

func find(held []holding, d digest.Digest, of func(holding) []ocispec.Descriptor) (ocispec.Descriptor, bool) {
	for _, h := range held {
		for _, desc := range of(h) {
			if desc.Digest == d {
				return desc, true
			}
		}
	}
	return ocispec.Descriptor{}, false
}

// document is what a manifest tells of itself.
type document struct {
	Subject      *ocispec.Descriptor `json:"subject"`
	ArtifactType string              `json:"artifactType"`
	MediaType    string              `json:"mediaType"`
	Config       ocispec.Descriptor  `json:"config"`
	Annotations  map[string]string   `json:"annotations"`
	size         int64
}

// manifests remembers documents, which never change.
type manifests struct {
	mu    sync.Mutex
	known map[digest.Digest]document
}

// maxKnown bounds what is remembered.
const maxKnown = 4096

// document reads a manifest, once.
func (s *Server) document(d digest.Digest) (document, error) {
	m := &s.manifests
	m.mu.Lock()
	doc, ok := m.known[d]
	m.mu.Unlock()
	if ok {
		return doc, nil
	}
	content, err := s.readAll(d, manifest.MaxSize)
	if err != nil {
		return doc, err
	}
	if err := json.Unmarshal(content, &doc); err != nil {
		return doc, err
	}
	doc.size = int64(len(content))
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) >= maxKnown {
		clear(m.known)
	}
	m.known[d] = doc
	return doc, nil
}
