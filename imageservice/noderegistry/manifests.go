package noderegistry

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/reference"
)

// serveManifest answers for a tag or digest. Manifests are small: they are verified
// before anything of them is sent.
func (s *Server) serveManifest(w http.ResponseWriter, r *http.Request, held []holding, last string) *failure {
	desc, fail := findManifest(held, last)
	if fail != nil {
		return fail
	}
	content, err := s.readAll(desc.Digest, manifest.MaxSize)
	if err != nil {
		s.log.Warn("a manifest cannot be served", "manifest", desc.Digest, "error", err)
		return manifestUnknown(last)
	}
	h := w.Header()
	h.Set("Content-Type", desc.MediaType)
	h.Set("Docker-Content-Digest", desc.Digest.String())
	h.Set("ETag", strconv.Quote(desc.Digest.String()))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	return nil
}

func findManifest(held []holding, last string) (ocispec.Descriptor, *failure) {
	if strings.Contains(last, ":") {
		d, err := reference.ParseDigest(last)
		if err != nil {
			return ocispec.Descriptor{}, &failure{http.StatusBadRequest, "DIGEST_INVALID", err.Error()}
		}
		if desc, ok := find(held, d, holding.documents); ok {
			return desc, nil
		}
		return ocispec.Descriptor{}, manifestUnknown(last)
	}
	for _, h := range held {
		if h.tag == last && last != "" {
			return h.source.Top, nil
		}
	}
	return ocispec.Descriptor{}, manifestUnknown(last)
}

// serveTags lists the tags in order, in pages if asked for ("Listing Tags").
func serveTags(w http.ResponseWriter, r *http.Request, held []holding, name string) *failure {
	tags := []string{}
	for _, h := range held {
		if h.tag != "" {
			tags = append(tags, h.tag)
		}
	}
	slices.Sort(tags)
	tags = slices.Compact(tags)
	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(tags, last)
		if found {
			i++
		}
		tags = tags[i:]
	}
	if text := query.Get("n"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return &failure{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n is not a number of tags"}
		}
		if n < len(tags) {
			tags = tags[:n]
			if n > 0 {
				query.Set("last", tags[n-1])
				w.Header().Set("Link", "<"+r.URL.Path+"?"+query.Encode()+`>; rel="next"`)
			}
		}
	}
	return writeJSON(w, "application/json", map[string]any{"name": name, "tags": tags})
}

// serveReferrers lists those manifests of the repository that have the digest as
// their subject ("Listing Referrers").
func (s *Server) serveReferrers(w http.ResponseWriter, r *http.Request, held []holding, last string) *failure {
	subject, err := reference.ParseDigest(last)
	if err != nil {
		return &failure{http.StatusBadRequest, "DIGEST_INVALID", err.Error()}
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{},
	}
	only := r.URL.Query().Get("artifactType")
	seen := map[digest.Digest]bool{}
	for _, h := range held {
		for _, desc := range h.documents() {
			if seen[desc.Digest] {
				continue
			}
			seen[desc.Digest] = true
			if found, ok := s.referrer(desc, subject); ok && (only == "" || found.ArtifactType == only) {
				index.Manifests = append(index.Manifests, found)
			}
		}
	}
	if only != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, ocispec.MediaTypeImageIndex, index)
}

func (s *Server) referrer(desc ocispec.Descriptor, subject digest.Digest) (ocispec.Descriptor, bool) {
	doc, err := s.document(desc.Digest)
	if err != nil || doc.Subject == nil || doc.Subject.Digest != subject {
		return ocispec.Descriptor{}, false
	}
	if doc.ArtifactType == "" {
		doc.ArtifactType = doc.Config.MediaType
	}
	return ocispec.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: doc.size, ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
	}, true
}
