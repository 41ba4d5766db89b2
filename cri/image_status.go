package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageStatus answers with no image for one that is not there.
func (s *imageServer) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if err := checkImage("image", r.GetImage()); err != nil {
		return nil, err
	}
	return s.images.ImageStatus(ctx, r.GetImage(), r.GetVerbose())
}

// ListImages returns the images that the filter selects, all without one.
func (s *imageServer) ListImages(ctx context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	if err := checkImageFilter("filter.image", r.GetFilter().GetImage()); err != nil {
		return nil, err
	}
	images, err := s.images.ListImages(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListImagesResponse{Images: images}, nil
}
