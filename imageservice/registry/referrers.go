package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/reference"
)

// Referrers returns what refers to a manifest and is of the artifact type, following
// "Listing Referrers" of the OCI distribution specification: the API, or the tag that
// stands for it at a registry without. What the first host that answers says counts.
func (r *Repository) Referrers(ctx context.Context, d digest.Digest, artifactType string, limit int64) ([]ocispec.Descriptor, error) {
	content, err := r.referrersIndex(ctx, d, artifactType, limit)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list referrers of %s: %w", d, err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(content, &index); err != nil {
		return nil, fmt.Errorf("list referrers of %s: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	var found []ocispec.Descriptor
	for _, m := range index.Manifests {
		if m.ArtifactType == artifactType && m.Digest.Validate() == nil {
			found = append(found, m)
		}
	}
	return found, nil
}

func (r *Repository) referrersIndex(ctx context.Context, d digest.Digest, artifactType string, limit int64) (content []byte, err error) {
	err = r.each(ctx, pulls, func(ctx context.Context, e *endpoint) error {
		path := "/referrers/" + d.String() + "?artifactType=" + url.QueryEscape(artifactType)
		resp, err := e.get(ctx, path, http.Header{"Accept": {ocispec.MediaTypeImageIndex}})
		if err != nil {
			return err
		}
		content, err = readDocument(resp, limit)
		return err
	})
	var se *statusError
	if err == nil || !errors.As(err, &se) || se.status >= http.StatusInternalServerError {
		return content, err
	}
	doc, err := r.Manifest(ctx, r.referrersTag(d), limit, nil)
	return doc.Content, err
}

// referrersTag stands for the API at a registry without.
func (r *Repository) referrersTag(d digest.Digest) reference.Reference {
	ref := r.ref
	ref.Tag, ref.Digest = d.Algorithm().String()+"-"+d.Encoded(), ""
	return ref
}

// PutReferrer puts a manifest whose subject is another one, and lists it where Referrers
// looks: the host does that by itself if it has the API ("Pushing Manifests with Subject").
// The descriptor is to have its artifact type. limit is that of the list.
func (r *Repository) PutReferrer(ctx context.Context, subject digest.Digest, m ocispec.Descriptor, content []byte, limit int64) error {
	answer, err := r.putManifest(ctx, r.ref.WithDigest(m.Digest), m.MediaType, content)
	if err != nil || answer.Get("OCI-Subject") != "" {
		return err
	}
	tag := r.referrersTag(subject)
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	doc, err := r.Pushed(ctx, tag, limit)
	if err == nil {
		err = json.Unmarshal(doc.Content, &index)
	}
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("list referrers of %s: %w", subject, err)
	}
	if slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == m.Digest }) {
		return nil
	}
	index.Manifests = append(index.Manifests, m)
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return r.PutManifest(ctx, tag, index.MediaType, raw)
}
