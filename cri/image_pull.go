package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageServer answers the calls of the ImageService.
type imageServer struct {
	runtimeapi.UnimplementedImageServiceServer
	images Images
}

// PullImage returns the image's ID.
func (s *imageServer) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if err := checkPullImage(r); err != nil {
		return nil, err
	}
	id, err := s.images.PullImage(ctx, r)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: id}, nil
}
