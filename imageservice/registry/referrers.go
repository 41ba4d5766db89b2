package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
	ref := r.ref
	ref.Tag, ref.Digest = d.Algorithm().String()+"-"+d.Encoded(), ""
	doc, err := r.Manifest(ctx, ref, limit, nil)
	return doc.Content, err
}
