package fakecri

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type imageService struct {
	runtimeapi.UnimplementedImageServiceServer
	*Server
}

func (s *Server) findImage(ref string) *runtimeapi.Image {
	for _, image := range s.images {
		id := strings.TrimPrefix(image.Id, "sha256:")
		if image.Id == ref || slices.Contains(image.RepoTags, ref) || slices.Contains(image.RepoDigests, ref) ||
			len(ref) >= 3 && strings.HasPrefix(id, ref) {
			return image
		}
	}
	return nil
}

func (s *imageService) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ref := req.GetFilter().GetImage().GetImage(); ref != "" {
		if image := s.findImage(ref); image != nil {
			return &runtimeapi.ListImagesResponse{Images: []*runtimeapi.Image{image}}, nil
		}
		return &runtimeapi.ListImagesResponse{}, nil
	}
	return &runtimeapi.ListImagesResponse{Images: s.images}, nil
}

func (s *imageService) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &runtimeapi.ImageStatusResponse{Image: s.findImage(req.GetImage().GetImage())}
	if req.Verbose && resp.Image != nil {
		resp.Info = map[string]string{"info": `{"imageSpec":{"architecture":"amd64"}}`}
	}
	return resp, nil
}

func (s *imageService) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	image := s.registry[req.GetImage().GetImage()]
	if image == nil {
		return nil, status.Errorf(codes.NotFound, "manifest of %s is unknown", req.GetImage().GetImage())
	}
	if s.findImage(image.Id) == nil {
		s.images = append(s.images, image)
	}
	return &runtimeapi.PullImageResponse{ImageRef: image.Id}, nil
}

func (s *imageService) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.findImage(req.GetImage().GetImage())
	s.images = slices.DeleteFunc(s.images, func(i *runtimeapi.Image) bool { return i == found })
	return &runtimeapi.RemoveImageResponse{}, nil
}

func (s *imageService) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	usage := func(at string, bytes uint64) []*runtimeapi.FilesystemUsage {
		return []*runtimeapi.FilesystemUsage{{
			FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: at}, UsedBytes: &runtimeapi.UInt64Value{Value: bytes},
		}}
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     usage("/var/lib/fake/images", 5_000_000),
		ContainerFilesystems: usage("/var/lib/fake/containers", 70_000),
	}, nil
}
