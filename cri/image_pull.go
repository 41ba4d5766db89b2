package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageServer answers the calls of the ImageService.
type imageServer struct {
	runtimeapi.UnimplementedImageServiceServer
	images Images
	// pulled may be nil.
	pulled func(pod *runtimeapi.PodSandboxConfig, image string, began time.Time, took time.Duration, failure error)
}

// PullImage returns the image's ID.
func (s *imageServer) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if err := checkPullImage(r); err != nil {
		return nil, err
	}
	began := time.Now()
	id, err := s.images.PullImage(ctx, r)
	if s.pulled != nil && r.GetSandboxConfig() != nil {
		s.pulled(r.GetSandboxConfig(), r.GetImage().GetImage(), began, time.Since(began), err)
	}
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: id}, nil
}
